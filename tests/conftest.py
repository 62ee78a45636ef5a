"""Settings of the whole suite."""

import os

# Before torch is imported, and for every process that a test starts: the models are tiny, and several threads that
# wait for each other on a busy machine are far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
