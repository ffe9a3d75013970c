"""Factors of n / 2^16. The product with x is (n * x + 2^15) >> 16: the nearest unit, halves up.

The same on every machine: nothing is cast out of range, and no product is rounded twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantic_net.fixed_point import FixedArray, work_array

RATIO_BITS = 16
ONE = 1 << RATIO_BITS


@dataclass(frozen=True, slots=True)
class Ratio:
    """A factor of n / 2^16."""

    n: int

    def of(self, x: int) -> int:
        """Return the product. It grows with x, and is at least minus that of -x: so the product
        of a bound bounds the products."""
        return (self.n * x + (ONE >> 1)) >> RATIO_BITS

    def times(self, x: FixedArray) -> FixedArray:
        """Return the products, in this thread's own work array; for n = 2^16, ``x`` itself."""
        if self.n == ONE:
            return x
        products: FixedArray = work_array("products", x.size, x.dtype)
        if self.n & (self.n - 1) == 0 and self.n < ONE:
            # (2^k x + 2^15) >> 16 without the factor 2^k of both: a shift, in any width.
            shift = RATIO_BITS + 1 - self.n.bit_length()
            np.add(x, 1 << (shift - 1), out=products)
            products >>= shift
        elif x.dtype == np.int32:
            # Below 2^31 * 2^17, so that each step is exact in float64, down to the last 2^-16.
            exact = work_array("exact", x.size, np.float64)
            np.multiply(x, self.n / ONE, out=exact)
            exact += 0.5
            np.floor(exact, out=exact)
            np.copyto(products, exact, casting="unsafe")
        else:
            np.multiply(x, self.n, out=products)
            products += ONE >> 1
            products >>= RATIO_BITS
        return products
