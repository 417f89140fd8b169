/** A library of CUDA that the provider needs, and where it comes from. */
export interface CudaLibrary {
  /** As the loader looks for it, on `LD_LIBRARY_PATH` and among the system's. */
  readonly file: string;
  readonly title: string;
  /** Package of NVIDIA's repositories for Debian and Ubuntu. */
  readonly systemPackage: string;
  /** Python wheel that holds it too. */
  readonly wheel: string;
}

/**
 * What the provider of ONNX Runtime 1.29.0 for CUDA 13 needs beside the driver. The first four are
 * linked into it; cuDNN it looks for when a session is made.
 */
export const cudaLibraries: readonly CudaLibrary[] = [
  {
    file: 'libcudart.so.13',
    title: "CUDA 13's runtime",
    systemPackage: 'cuda-cudart-13-0',
    wheel: 'nvidia-cuda-runtime',
  },
  {
    file: 'libcublas.so.13',
    title: 'cuBLAS 13',
    systemPackage: 'libcublas-13-0',
    wheel: 'nvidia-cublas',
  },
  {
    file: 'libcublasLt.so.13',
    title: 'cuBLASLt 13',
    systemPackage: 'libcublas-13-0',
    wheel: 'nvidia-cublas',
  },
  {
    file: 'libcurand.so.10',
    title: 'cuRAND 10',
    systemPackage: 'libcurand-13-0',
    wheel: 'nvidia-curand',
  },
  {
    file: 'libcudnn.so.9',
    title: 'cuDNN 9 for CUDA 13',
    systemPackage: 'libcudnn9-cuda-13',
    wheel: 'nvidia-cudnn-cu13',
  },
];

/** The sentence that says how to get a library. */
export function libraryFix({ title, systemPackage, wheel }: CudaLibrary): string {
  return (
    `Install ${title}: "apt-get install ${systemPackage}" with NVIDIA's repository, or ` +
    `"pip install ${wheel}" and its folder in LD_LIBRARY_PATH (docs/cuda.md).`
  );
}
