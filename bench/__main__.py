"""All benches, one after the other: `make bench`."""

from __future__ import annotations

from bench import audit, codec, passes

for bench in (codec, passes, audit):
    bench.main()
