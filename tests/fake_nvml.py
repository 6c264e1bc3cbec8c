"""A stand-in for NVML, which is the outside world: two cards, answered through the real calls."""

import types

from celora.settings.gpus import GIB


class FakeNvml(types.SimpleNamespace):
    """Two cards, answered as pynvml does."""

    NVMLError = RuntimeError
    cards = (("NVIDIA H100 80GB HBM3", 80 * GIB, "GPU-1"), ("NVIDIA A10G", 24 * GIB, "GPU-2"))

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlShutdown(self):  # noqa: N802
        pass

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self.cards[handle][0]

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return types.SimpleNamespace(total=self.cards[handle][1])

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return self.cards[handle][2]
