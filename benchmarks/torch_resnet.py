"""The same residual network, training step and forward pass in PyTorch, made fast.

Channels last, autocast to bfloat16, cuDNN's search for the fastest convolutions, fused
SGD, `torch.compile` over everything from the gather to the loss; the images lie on the
device as uint8, where every batch is gathered, shifted, mirrored and normalised, as
this project's step does.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

#: How the suite runs the step: as written, or compiled, quickest to get ready first.
#: A third, max-autotune, takes minutes for that and is measured where it is asked for.
MODES = ("eager", "reduce-overhead")


class Block(nn.Module):
    def __init__(self, incoming: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(incoming, channels, 3, stride)
        self.second = convolution(channels, channels, 3, 1)
        same = stride == 1 and incoming == channels
        self.shortcut = (
            nn.Identity() if same else convolution(incoming, channels, 1, stride)
        )

    def forward(self, x):
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


def convolution(incoming: int, channels: int, side: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, channels, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


def network(spec: Any) -> nn.Module:
    """Build what a `ResidualNetwork` describes."""
    layers = [convolution(spec.in_channels, spec.stem, 3, 1), nn.ReLU()]
    incoming = spec.stem
    for stage, (channels, blocks) in enumerate(
        zip(spec.channels, spec.blocks, strict=True)
    ):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Block(incoming, channels, stride))
            incoming = channels
    head = nn.Linear(incoming, spec.num_classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def num_parameters(spec: Any) -> int:
    return sum(parameter.numel() for parameter in network(spec).parameters())


class Trainer:
    """A network with its data on the device and one way to run its step.

    Args:
        spec: Shape of the network.
        images: uint8[n, h, w, c].
        labels: Their classes.
        batch: Rows of a step.
        dtype: "bfloat16" for autocast to it, or "float32".
        mode: "eager", or one of `torch.compile`.
        translate: Largest shift in pixels.
        flip: Whether half of the images are mirrored.
    """

    def __init__(
        self,
        spec: Any,
        images: np.ndarray,
        labels: np.ndarray,
        batch: int,
        *,
        dtype: str,
        mode: str,
        translate: int = 0,
        flip: bool = False,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        self.batch, self.translate, self.flip = batch, translate, flip
        self.side = images.shape[1]
        self.network = network(spec).to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=0.01,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            fused=True,
        )
        self.images = torch.as_tensor(images, device=self.device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=self.device)
        self.place = torch.arange(self.side, device=self.device)[None]
        # every weight is read once a step, and CUDA graphs do not take the cache
        self._cast = lambda: torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=dtype == "bfloat16",
            cache_enabled=False,
        )
        self._mode = mode
        self._loss_of, self._logits_of = self._loss, self._logits
        if mode != "eager":
            self._loss_of, self._logits_of = (
                torch.compile(function, mode=mode)
                for function in (self._loss, self._logits)
            )
            for tensor in (self.images, self.labels, self.place):
                # else CUDA graphs copy the data set into their memory every step
                torch._dynamo.mark_static_address(tensor)

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        """Train on a batch and return its loss, without waiting for it."""
        if self._mode != "eager":
            torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss_of(rows)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def epoch(self) -> None:
        """Train on all full batches of a new order, and wait."""
        self.network.train()
        count = len(self.labels) // self.batch * self.batch
        order = torch.randperm(len(self.labels), device=self.device)[:count]
        for rows in order.split(self.batch):
            self.step(rows)
        self.wait()

    def forward(self) -> None:
        """Run every example through the network in evaluation mode, and wait."""
        self.network.eval()
        with torch.inference_mode():
            for rows in torch.arange(len(self.labels), device=self.device).split(
                self.batch
            ):
                self._logits_of(rows)
        self.wait()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _loss(self, rows):
        shape = (2, rows.shape[0], 1)
        shift = torch.randint(
            -self.translate, self.translate + 1, shape, device=self.device
        )
        down, right = self.place + shift[0], self.place + shift[1]
        down, right = reflected(down, self.side), reflected(right, self.side)
        if self.flip:
            mirrored = torch.rand(shape[1:], device=self.device) < 0.5
            right = torch.where(mirrored, self.side - 1 - right, right)
        pixels = self.images[rows[:, None, None], down[:, :, None], right[:, None, :]]
        logits = self._classify(pixels)
        return nn.functional.cross_entropy(logits, self.labels[rows])

    def _logits(self, rows):
        return self._classify(self.images[rows])

    def _classify(self, pixels):
        # as they lie, rows of NHWC pixels are channels last
        x = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        with self._cast():
            return self.network(x).float()


def reflected(index: torch.Tensor, side: int) -> torch.Tensor:
    """Mirror an index at the borders without repeating the border pixel."""
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


def runs(
    spec: Any,
    images: np.ndarray,
    labels: np.ndarray,
    batch: int,
    dtype: str,
    *,
    compiled: bool,
) -> dict[str, Callable[[], None]]:
    """Return functions that train on, and run forward, all images once, and wait."""
    mode = "default" if compiled else "eager"
    trainer = Trainer(spec, images, labels, batch, dtype=dtype, mode=mode)
    return {"train": trainer.epoch, "forward": trainer.forward}


def matrix_peak(side: int, dtype: str = "bfloat16") -> float:
    """Return the TFLOP/s of a large product of random matrices, the best of several."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left, right = (
        torch.randn(side, side, device=device).to(getattr(torch, dtype))
        for _ in range(2)
    )
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(8):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 8 * 2 * side**3 / min(seconds) / 1e12


def device_facts() -> dict[str, Any]:
    """Return what PyTorch computes on, under the keys of `run.machine.device_facts`."""
    cuda = torch.cuda.is_available()
    return {
        "platform": "gpu" if cuda else "cpu",
        "kind": torch.cuda.get_device_name() if cuda else "cpu",
        "count": torch.cuda.device_count() if cuda else 1,
        "cpu_cores": len(os.sched_getaffinity(0)),
    }
