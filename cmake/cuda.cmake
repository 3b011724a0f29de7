# The CUDA compiler, cuBLASLt, and which architectures a file is compiled for.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # given file by file below
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 (Debian 12) does not know it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit REQUIRED)

# Where the toolkit is only a compiler, cuBLAS comes as a wheel: PUREKV_CUDA_WHEELS is a folder that holds nvidia/...
set(PUREKV_CUDA_WHEELS "" CACHE PATH "site-packages folder with the nvidia-cublas wheel, where the toolkit has no cuBLAS")
file(GLOB wheel_folders ${PUREKV_CUDA_WHEELS}/nvidia/*)
find_path(PUREKV_CUBLASLT_INCLUDE cublasLt.h
  HINTS ${CUDAToolkit_INCLUDE_DIRS} ${wheel_folders} PATH_SUFFIXES include)
# A wheel holds versioned names only.
find_library(PUREKV_CUBLASLT_LIBRARY NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12
  HINTS ${CUDAToolkit_LIBRARY_DIR} ${wheel_folders} PATH_SUFFIXES lib)
if(NOT PUREKV_CUBLASLT_INCLUDE OR NOT PUREKV_CUBLASLT_LIBRARY)
  message(FATAL_ERROR "cuBLASLt was not found; install the toolkit's cuBLAS, or `pip install nvidia-cublas` and set "
    "PUREKV_CUDA_WHEELS to its site-packages folder")
endif()

# A file whose name ends in _sm90 uses instructions of sm_90a only; every other one is compiled for sm_80 too.
set(PUREKV_GENCODE_SM90 --generate-code=arch=compute_90a,code=sm_90a)
set(PUREKV_GENCODE_ALL --generate-code=arch=compute_80,code=[compute_80,sm_80] ${PUREKV_GENCODE_SM90})
function(purekv_cuda_sources)
  foreach(source ${ARGN})
    if(source MATCHES "_sm90\\.cu$")
      set(gencode ${PUREKV_GENCODE_SM90})
    else()
      set(gencode ${PUREKV_GENCODE_ALL})
    endif()
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
      "${gencode};--expt-relaxed-constexpr;-lineinfo;-Xcompiler=-Wall,-Wextra;$<$<BOOL:${PUREKV_WERROR}>:-Werror=all-warnings>")
  endforeach()
endfunction()
