"""Residual networks as torchvision writes them, with weights that a seed decides."""

from typing import Any

import numpy as np

#: Stem and widths of the four stages, blocks of each; of the shape of ResNet-18.
WIDTHS, BLOCKS, CLASSES = (8, 8, 16, 16, 24), (2, 2, 2, 2), 5


def shapes(stem_side: int = 7) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by torchvision's names."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{kind}"] = (width,)
        found[f"{name}.num_batches_tracked"] = ()

    found["conv1.weight"] = (WIDTHS[0], 3, stem_side, stem_side)
    norm("bn1", WIDTHS[0])
    incoming = WIDTHS[0]
    for stage, (width, blocks) in enumerate(zip(WIDTHS[1:], BLOCKS, strict=True), 1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            found[f"{place}.conv1.weight"] = (width, incoming, 3, 3)
            norm(f"{place}.bn1", width)
            found[f"{place}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{place}.bn2", width)
            if block == 0 and (stage > 1 or incoming != width):
                found[f"{place}.downsample.0.weight"] = (width, incoming, 1, 1)
                norm(f"{place}.downsample.1", width)
            incoming = width
    found["fc.weight"], found["fc.bias"] = (CLASSES, WIDTHS[-1]), (CLASSES,)
    return found


def weights(stem_side: int = 7) -> dict[str, np.ndarray]:
    """Draw all tensors from one seed: kernels of He's size, statistics of any."""
    rng = np.random.default_rng(18)
    drawn = {}
    for name, shape in shapes(stem_side).items():
        if name.endswith("num_batches_tracked"):
            drawn[name] = np.array(7)
        elif name.endswith("running_var"):
            drawn[name] = rng.uniform(0.5, 2.0, shape).astype(np.float32)
        elif len(shape) > 1:
            size = (2.0 / np.prod(shape[1:])) ** 0.5
            drawn[name] = (size * rng.standard_normal(shape)).astype(np.float32)
        else:
            near = 1.0 if name.endswith("weight") else 0.0
            drawn[name] = (near + 0.3 * rng.standard_normal(shape)).astype(np.float32)
    return drawn


def images(count: int = 2, side: int = 33) -> np.ndarray:
    """Draw normalised images, [n h w 3]; an odd side shows how borders are padded."""
    rng = np.random.default_rng(33)
    return rng.standard_normal((count, side, side, 3)).astype(np.float32)


def torch_logits(stem_side: int = 7) -> np.ndarray:
    """Run the network in PyTorch, in evaluation mode; its modules, not ours."""
    import torch
    from torch import nn

    class BasicBlock(nn.Module):
        def __init__(self, incoming: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(incoming, width, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.downsample: Any = None
            if stride != 1 or incoming != width:
                self.downsample = nn.Sequential(
                    nn.Conv2d(incoming, width, 1, stride, bias=False),
                    nn.BatchNorm2d(width),
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + shortcut)

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            large = stem_side == 7
            stride = 2 if large else 1
            side = stem_side
            self.conv1 = nn.Conv2d(3, WIDTHS[0], side, stride, side // 2, bias=False)
            self.bn1 = nn.BatchNorm2d(WIDTHS[0])
            self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
            incoming = WIDTHS[0]
            for stage, (width, blocks) in enumerate(
                zip(WIDTHS[1:], BLOCKS, strict=True), 1
            ):
                layers = []
                for block in range(blocks):
                    step = 2 if stage > 1 and block == 0 else 1
                    layers.append(BasicBlock(incoming, width, step))
                    incoming = width
                setattr(self, f"layer{stage}", nn.Sequential(*layers))
            self.fc = nn.Linear(incoming, CLASSES)

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc(x.mean(dim=(2, 3)))

    network = ResNet()
    network.load_state_dict(
        {n: torch.tensor(a) for n, a in weights(stem_side).items()}, strict=True
    )
    with torch.inference_mode():
        pixels = torch.tensor(images().transpose(0, 3, 1, 2))
        return network.eval()(pixels).numpy()
