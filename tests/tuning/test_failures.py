import errno

import pytest

from celora.errors import DeviceError, DiskFullError, HostMemoryError, OutOfMemoryError, SettingsError
from celora.tuning.failures import Situation, explained, kind_of, kind_of_log
from celora.tuning.recipe import Recipe


def named(name, kind=RuntimeError):
    """A type as torch or NVML has it, without torch or NVML."""
    return type(name, (kind,), {})


DEVICE_TEXTS = [
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other call",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "CUDA driver error: invalid argument",
    "HIP error: invalid device function",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k, &alpha, a)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "No CUDA GPUs are available",
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver",
    "The NVIDIA driver on your system is too old (found version 11040).",
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices()",
    "CUDA unknown error - this may be due to an incorrectly set up environment",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1016',
    "Triton Error [CUDA]: device-side assert triggered",
    "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
]
DEVICE_MEMORY_TEXTS = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.2 GiB is free.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
    "HIP out of memory. Tried to allocate 20.00 MiB",
]
NEITHER = [
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x64 and 32x8)"),
    ValueError("CUDA error: somebody quotes it"),
    KeyError("CUDA"),
    OSError(errno.EACCES, "Permission denied"),
    IndexError("index out of range in self"),
]


@pytest.mark.parametrize("text", DEVICE_TEXTS)
def test_what_a_broken_device_or_driver_says_is_the_device_s_failure(text):
    assert kind_of(RuntimeError(text), "cuda") is DeviceError


@pytest.mark.parametrize("name", ["AcceleratorError", "NVMLError"])
def test_types_of_the_device_s_own_need_no_words(name):
    assert kind_of(named(name)("whatever"), "cuda") is DeviceError


@pytest.mark.parametrize("text", DEVICE_MEMORY_TEXTS)
def test_every_way_in_which_cuda_lacks_memory_is_one_class(text):
    assert kind_of(RuntimeError(text), "cuda") is OutOfMemoryError
    assert kind_of(named("AcceleratorError")(text), "cuda") is OutOfMemoryError


def test_the_type_decides_before_the_words():
    assert kind_of(named("OutOfMemoryError")("CUDA error: device-side assert triggered"), "cuda") is OutOfMemoryError
    assert kind_of(named("OutOfMemoryError")("anything"), "cuda") is OutOfMemoryError


@pytest.mark.parametrize("error", NEITHER, ids=str)
def test_other_errors_are_none_of_them(error):
    assert kind_of(error, "cuda") is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 8589934592 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_the_machine_s_memory_is_told_from_the_gpu_s(error):
    assert kind_of(error, "cuda") is HostMemoryError


def test_torch_s_allocator_is_the_device_on_a_cpu_and_the_machine_beside_a_gpu():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**14)
    assert kind_of(caught.value, "cpu") is OutOfMemoryError
    assert kind_of(caught.value, "cuda") is HostMemoryError
    assert issubclass(torch.AcceleratorError, RuntimeError)  # found by its name in failures.py
    assert kind_of(torch.OutOfMemoryError("x"), "cuda") is OutOfMemoryError
    assert kind_of(torch.AcceleratorError("x"), "cuda") is DeviceError


def test_what_an_error_was_raised_from_counts():
    error = ValueError("loading failed")
    error.__cause__ = RuntimeError("CUDA error: unspecified launch failure")
    assert kind_of(error, "cuda") is DeviceError


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        ("step 3\nError out of memory at line 380 in file /src/csrc/pythonInterface.cpp\n", OutOfMemoryError),
        ("memory allocation of 4096 bytes failed\nAborted", HostMemoryError),
        ("terminate called after throwing an instance of 'std::bad_alloc'", HostMemoryError),
        ("Error an illegal memory access was encountered at line 97 in file /src/csrc/ops.cu\n", DeviceError),
        ("a run like any other\n", None),
    ],
)
def test_the_end_of_a_log_tells_what_a_library_that_left_without_a_word_had_met(tail, kind):
    assert kind_of_log(tail) is kind


def test_a_lack_of_device_memory_carries_the_numbers_that_the_next_attempt_is_decided_by():
    recipe = Recipe(micro_batch=4, accumulation=2, max_length=512, gradient_checkpointing=False)
    situation = Situation("cpu", doing="training", step=7, recipe=recipe)
    with pytest.raises(OutOfMemoryError) as caught, explained(situation):
        raise named("OutOfMemoryError")("CUDA out of memory.\nTried to allocate")
    assert "while training (micro_batch 4, max_length 512): CUDA out of memory." in caught.value.message
    facts = caught.value.facts
    assert (
        facts
        | {
            "phase": "training",
            "step": 7,
            "device": "cpu",
            "micro_batch": 4,
            "accumulation": 2,
            "gradient_checkpointing": False,
            "max_length": 512,
        }
        == facts
    )
    assert "Halve micro_batch and double accumulation" in caught.value.hint


def test_a_base_that_does_not_even_load_is_no_matter_of_the_batch():
    with pytest.raises(OutOfMemoryError) as caught, explained(Situation("cuda")):
        raise named("OutOfMemoryError")("CUDA out of memory.")
    assert caught.value.facts["phase"] == "loading"
    assert "quantization nf4" in caught.value.hint


def test_the_machine_s_lack_of_memory_says_how_much_is_free():
    with (
        pytest.raises(HostMemoryError, match=r"loading \(\d+\.\d of \d+\.\d GiB are free\)") as caught,
        explained(Situation("cuda")),
    ):
        raise MemoryError
    assert caught.value.facts["host_total_bytes"] > caught.value.facts["resident_bytes"] > 0


def test_a_full_disk_names_its_folder_and_ours_pass_through(tmp_path):
    with pytest.raises(DiskFullError, match=str(tmp_path)), explained(Situation("cpu", tmp_path)):
        raise OSError(errno.ENOSPC, "No space left on device")
    inner = DiskFullError("No space left at /elsewhere.")
    for ours in (inner, SettingsError("CUDA error: quoted")):
        with pytest.raises(type(ours)) as caught, explained(Situation("cpu", tmp_path)):
            raise ours
        assert caught.value is ours
