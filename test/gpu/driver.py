"""The CUDA driver API by ctypes: loads the fatbin and launches its kernels on PyTorch's stream."""

import ctypes
import os

import torch

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
FATBIN = os.environ.get('READONCE_KERNELS', os.path.join(ROOT, 'dist', 'native', 'kernels.fatbin'))

MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
DEFAULT_SHARED = 48 * 1024


PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute."""
    _fields_ = [('id', ctypes.c_int), ('pad', ctypes.c_int), ('value', ctypes.c_int * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""
    _fields_ = [('grid', ctypes.c_uint * 3), ('block', ctypes.c_uint * 3),
                ('shared', ctypes.c_uint), ('stream', ctypes.c_void_p),
                ('attributes', ctypes.POINTER(_Attribute)), ('count', ctypes.c_uint)]


class Long(int):
    """An argument of 64 bits; plain ints are passed as 32."""


class Driver:
    """The kernels of one fatbin, by name."""

    def __init__(self, path=FATBIN):
        torch.zeros(1, device='cuda')  # makes PyTorch's context the current one
        self.cuda = ctypes.CDLL('libcuda.so.1')
        self.module = ctypes.c_void_p()
        with open(path, 'rb') as file:
            image = file.read()
        self._check(self.cuda.cuModuleLoadData(ctypes.byref(self.module), image))
        self.functions = {}

    def _check(self, status):
        if status != 0:
            text = ctypes.c_char_p()
            self.cuda.cuGetErrorString(status, ctypes.byref(text))
            raise RuntimeError(f'CUDA driver error {status}: {(text.value or b"?").decode()}')

    def function(self, name, shared=0):
        """The kernel's handle, allowed `shared` bytes of dynamic shared memory."""
        key = (name, shared)
        if key not in self.functions:
            handle = ctypes.c_void_p()
            self._check(self.cuda.cuModuleGetFunction(
                ctypes.byref(handle), self.module, name.encode()))
            if shared > DEFAULT_SHARED:
                self._check(self.cuda.cuFuncSetAttribute(handle, MAX_DYNAMIC_SHARED, shared))
            self.functions[key] = handle
        return self.functions[key]

    def resident(self, name, threads, shared):
        """Blocks of the kernel that the whole card runs at once."""
        count = ctypes.c_int()
        self._check(self.cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(
            ctypes.byref(count), self.function(name, shared), threads, ctypes.c_size_t(shared)))
        return count.value * torch.cuda.get_device_properties(0).multi_processor_count

    def launch(self, name, grid, threads, args, shared=0, early=False):
        """`args`: tensors (their address), None (null), int, Long, float.

        `early`: programmatic stream serialization, for kernels that wait for the previous one
        themselves.
        """
        values = [_argument(x) for x in args]
        pointers = (ctypes.c_void_p * len(values))(
            *[ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values])
        x, y, z = (tuple(grid) + (1, 1))[:3]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        attribute = _Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, 0, (ctypes.c_int * 16)(1))
        config = _Config((ctypes.c_uint * 3)(x, y, z), (ctypes.c_uint * 3)(threads, 1, 1), shared,
                         stream, ctypes.pointer(attribute), 1 if early else 0)
        self._check(self.cuda.cuLaunchKernelEx(
            ctypes.byref(config), self.function(name, shared), pointers, None))


def _argument(x):
    if x is None:
        return ctypes.c_void_p(0)
    if isinstance(x, torch.Tensor):
        return ctypes.c_void_p(x.data_ptr())
    if isinstance(x, Long):
        return ctypes.c_longlong(x)
    if isinstance(x, int):
        return ctypes.c_int(x)
    if isinstance(x, float):
        return ctypes.c_float(x)
    raise TypeError(f'Expected a tensor, number or None as argument but got {type(x)}')
