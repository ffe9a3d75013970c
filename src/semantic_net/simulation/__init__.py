"""The same peers under a virtual clock: disasters by seed, a minute for a thousand of them."""
