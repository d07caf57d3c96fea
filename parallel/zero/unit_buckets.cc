#include "parallel/zero/unit_buckets.h"

#include <algorithm>

namespace trireme {

std::vector<std::vector<size_t>> buckets_of_units(const std::vector<Unit*>& units,
                                                  const std::vector<Bucket*>& buckets) {
  std::vector<std::vector<size_t>> lists;
  for (Unit* unit : units) {
    std::vector<size_t>& used = lists.emplace_back();
    const std::vector<Weight*> weights = unit->weights();
    for (size_t b = 0; b < buckets.size(); ++b) {
      const std::vector<Weight*>& members = buckets[b]->weights();
      const bool uses = std::any_of(weights.begin(), weights.end(), [&](const Weight* weight) {
        return std::find(members.begin(), members.end(), weight) != members.end();
      });
      if (uses) used.push_back(b);
    }
  }
  return lists;
}

}  // namespace trireme
