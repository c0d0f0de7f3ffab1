"""What others say is right: onnxruntime, the cases of the `onnx` package, scikit-learn.

The suite takes a sample; ``python -m tests.conformance`` takes all of it, and shows the counts.
"""

import os

ALL_VARIABLE = "HERMES_CONFORMANCE_ALL"
# Of how many cases the suite takes one.
SAMPLE = 1 if os.environ.get(ALL_VARIABLE) else 60
