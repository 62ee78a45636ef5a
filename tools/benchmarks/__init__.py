"""Cases of ``tools/benchmark.py``: one module a case, each with ``add_arguments`` and ``run``."""
