"""The error measure of the oracle, and the bounds that a fp32 run of Trireme must keep.

error(a, b) = |a - b| / max(|b|, 1e-4 * the largest |b| of that kind), norms over all elements in fp64. A kind is
`loss`, `grad_norm`, `logits`, all `grad.*` of a case, or all `weight.*` of a case. The floor keeps a tensor whose
true gradient is zero (GPT-2's key biases, say) from comparing rounding noise with rounding noise.
"""

import numpy as np

FLOOR = 1e-4
BOUNDS = {"loss": 1e-6, "prediction_loss": 1e-6, "grad_norm": 1e-5, "logits": 1e-5, "grad": 1e-5, "weight": 1e-5}


def kind_of(name):
    return name.split(".", 1)[0]


def norm(a):
    return float(np.linalg.norm(np.asarray(a, dtype=np.float64).ravel()))


def largest_norms(expected):
    """{kind: the largest norm of its tensors}."""
    largest = {}
    for name, value in expected.items():
        kind = kind_of(name)
        largest[kind] = max(largest.get(kind, 0.0), norm(value))
    return largest


def errors(found, expected):
    """{name: error} for every name in `expected`; NaN or Inf in `found` gives an infinite error."""
    largest = largest_norms(expected)
    result = {}
    for name, want in expected.items():
        got = np.asarray(found[name], dtype=np.float64)
        want = np.asarray(want, dtype=np.float64)
        if got.shape != want.shape:
            raise ValueError(f"{name}: expected shape {list(want.shape)}, found {list(got.shape)}")
        if not np.all(np.isfinite(got)):
            result[name] = float("inf")
            continue
        scale = max(norm(want), FLOOR * largest[kind_of(name)])
        result[name] = norm(got - want) / scale if scale > 0 else norm(got - want)
    return result


def worst(error_of_name):
    """{kind: (largest error, its name)}."""
    result = {}
    for name, value in error_of_name.items():
        kind = kind_of(name)
        if kind not in result or value > result[kind][0]:
            result[kind] = (value, name)
    return result
