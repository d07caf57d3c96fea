#include "tests/emulator/kernel_info.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <unordered_map>

#include "tests/emulator/hidden.h"

namespace emulator {

namespace {

// The tags of include/emulated/keywords.h as they are mangled. GCC leaves the kernel's out of templates in the global
// namespace.
constexpr std::string_view kKernelTag = "B6kernel";
constexpr std::string_view kSharedTag = "B6shared";

struct Symbol {
  std::string_view name;
  uint64_t value;
  uint64_t bytes;
};

// The program's functions and thread-local variables. Empty when it was stripped.
struct Symbols {
  Symbols() {
    read_table();
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* self) {
          static_cast<Symbols*>(self)->read_addresses(*info);
          return 1;  // the first is the program
        },
        this);
    if (functions.empty()) {
      std::fprintf(stderr,
                   "emulator: the program has no symbol table: kernels stay nameless, static shared memory is "
                   "not filled\n");
    }
  }

  void read_table() {
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) return;
    const size_t bytes = static_cast<size_t>(status.st_size);
    void* all = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (all == MAP_FAILED) return;
    const char* image = static_cast<const char*>(all);
    const auto& header = *reinterpret_cast<const Elf64_Ehdr*>(image);
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image + header.e_shoff);
    for (int i = 0; i < header.e_shnum; ++i) {
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      const char* names = image + sections[sections[i].sh_link].sh_offset;
      const auto* symbols = reinterpret_cast<const Elf64_Sym*>(image + sections[i].sh_offset);
      for (size_t s = 0; s < sections[i].sh_size / sizeof(Elf64_Sym); ++s) {
        const Symbol symbol{names + symbols[s].st_name, symbols[s].st_value, symbols[s].st_size};
        const int type = ELF64_ST_TYPE(symbols[s].st_info);
        if (type == STT_FUNC && symbol.value != 0 && symbol.name.starts_with("_Z")) functions.push_back(symbol);
        if (type == STT_TLS && symbol.name.starts_with("_ZZ") && symbol.name.ends_with(kSharedTag)) {
          shared.push_back(symbol);
        }
      }
    }
  }

  void read_addresses(const dl_phdr_info& info) {
    load_address = info.dlpi_addr;
    if (info.dlpi_tls_data == nullptr) return;
    thread_offset = static_cast<char*>(info.dlpi_tls_data) - static_cast<char*>(__builtin_thread_pointer());
  }

  std::vector<Symbol> functions;
  std::vector<Symbol> shared;  // static variables of functions
  uint64_t load_address = 0;
  std::ptrdiff_t thread_offset = 0;  // of the program's thread-local memory
};

// "void space::name[abi:kernel]<int>(float*)" -> "space::name<int>"
std::string readable(std::string_view mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(std::string(mangled).c_str(), nullptr, nullptr, &status);
  if (status != 0) return std::string(mangled);
  std::string name = text;
  std::free(text);
  for (const std::string_view cut : {"[abi:kernel]", "(anonymous namespace)::", "trireme::"}) {
    for (size_t at; (at = name.find(cut)) != std::string::npos;) name.erase(at, cut.size());
  }
  if (name.ends_with(')')) {
    size_t at = name.size();
    for (int depth = 0; at > 0;) {
      --at;
      depth += name[at] == ')' ? 1 : name[at] == '(' ? -1 : 0;
      if (depth == 0) break;
    }
    name.erase(at);
  }
  if (name.starts_with("void ")) name.erase(0, 5);
  return name;
}

void describe(KernelInfo& info, const void* kernel, const Symbols& symbols) {
  const uint64_t address = reinterpret_cast<uint64_t>(kernel) - symbols.load_address;
  std::string_view own;  // the mangled name without _Z
  for (const Symbol& symbol : symbols.functions) {
    if (symbol.value == address) own = symbol.name.substr(2);
  }
  if (own.empty()) {
    char text[40];
    std::snprintf(text, sizeof text, "kernel at %p", kernel);
    info.name = text;
  } else {
    info.name = "kernel " + readable("_Z" + std::string(own));
  }
  for (const Symbol& variable : symbols.shared) {
    const std::string_view inside = variable.name.substr(3);
    const bool is_own = !own.empty() && inside.starts_with(own) && inside.substr(own.size()).starts_with("E");
    if (is_own) info.static_bytes += variable.bytes;
    if (is_own || inside.find(kKernelTag) == std::string_view::npos) {
      info.shared.push_back({symbols.thread_offset + static_cast<std::ptrdiff_t>(variable.value), variable.bytes});
    }
  }
}

struct Kernels {
  HiddenMutex mutex;
  Symbols symbols;
  std::unordered_map<const void*, KernelInfo*> known;
};

}  // namespace

KernelInfo& kernel_info(const void* kernel) {
  static Kernels* kernels = new Kernels;
  HiddenLock lock(kernels->mutex);
  KernelInfo*& info = kernels->known[kernel];
  if (info == nullptr) {
    info = new KernelInfo;
    describe(*info, kernel, kernels->symbols);
  }
  return *info;
}

}  // namespace emulator
