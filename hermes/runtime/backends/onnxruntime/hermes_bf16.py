"""BF16 tensors as numpy arrays of their 16 bits.

numpy has no BF16, and Triton's Python backend passes such tensors only through DLPack. These
functions convert them from and to arrays of uint16 by changing the type code of a DLPack capsule.
https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h
"""

import ctypes

import numpy as np

UINT, BFLOAT = 1, 4  # DLDataTypeCode
CODE_OFFSET = 20  # of dtype.code in DLTensor: data 8, device 4 + 4, ndim 4
CPU = (1, 0)  # DLDevice

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_set_destructor = ctypes.pythonapi.PyCapsule_SetDestructor
_set_destructor.argtypes = [ctypes.py_object, ctypes.c_void_p]


class _Exporter:
    """Exports a DLPack capsule after setting its type code to another type of the same size."""

    def __init__(self, capsule, code):
        ctypes.c_uint8.from_address(_pointer(capsule, b"dltensor") + CODE_OFFSET).value = code
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return CPU


def bits_of(capsule):
    """Return the bits of a BF16 tensor in a DLPack capsule, as an array of uint16."""
    return np.from_dlpack(_Exporter(capsule, UINT))


def exchangeable(bits):
    """Return an argument of `Tensor.from_dlpack` for BF16, from an array of uint16."""
    # A copy: numpy does not export read-only arrays.
    capsule = np.array(bits).__dlpack__()
    # Triton renames a capsule that it has taken to "used_dlpack", not "used_dltensor", so numpy's
    # destructor would fail. Triton frees the tensor.
    _set_destructor(capsule, None)
    return _Exporter(capsule, BFLOAT)
