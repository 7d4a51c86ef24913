"""Residual networks as torchvision writes them, with weights that a seed decides."""

from typing import Any

import numpy as np

#: Stem and widths of the four stages, blocks of each; of the shape of ResNet-18, or
#: with bottlenecks of a ResNet-26.
WIDTHS, BLOCKS, CLASSES = (8, 8, 16, 16, 24), (2, 2, 2, 2), 5


def shapes(
    stem_side: int = 7, *, bottleneck: bool = False
) -> dict[str, tuple[int, ...]]:
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
            place, outgoing = f"layer{stage}.{block}", width
            layers = [(width, 3), (width, 3)]
            if bottleneck:
                outgoing = 4 * width
                layers = [(width, 1), (width, 3), (outgoing, 1)]
            read = incoming
            for number, (gives, side) in enumerate(layers, 1):
                found[f"{place}.conv{number}.weight"] = (gives, read, side, side)
                norm(f"{place}.bn{number}", gives)
                read = gives
            if block == 0 and (stage > 1 or incoming != outgoing):
                found[f"{place}.downsample.0.weight"] = (outgoing, incoming, 1, 1)
                norm(f"{place}.downsample.1", outgoing)
            incoming = outgoing
    found["fc.weight"], found["fc.bias"] = (CLASSES, incoming), (CLASSES,)
    return found


def weights(stem_side: int = 7, *, bottleneck: bool = False) -> dict[str, np.ndarray]:
    """Draw all tensors from one seed: kernels of He's size, statistics of any."""
    rng = np.random.default_rng(18)
    drawn = {}
    for name, shape in shapes(stem_side, bottleneck=bottleneck).items():
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


def _torch_block(*, bottleneck: bool) -> Any:
    """Return the class of a block, of PyTorch's modules."""
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

    class Bottleneck(nn.Module):
        def __init__(self, incoming: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(incoming, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(4 * width)
            self.downsample: Any = None
            if stride != 1 or incoming != 4 * width:
                self.downsample = nn.Sequential(
                    nn.Conv2d(incoming, 4 * width, 1, stride, bias=False),
                    nn.BatchNorm2d(4 * width),
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            y = torch.relu(self.bn1(self.conv1(x)))
            y = torch.relu(self.bn2(self.conv2(y)))
            return torch.relu(self.bn3(self.conv3(y)) + shortcut)

    return Bottleneck if bottleneck else BasicBlock


def torch_logits(stem_side: int = 7, *, bottleneck: bool = False) -> np.ndarray:
    """Run the network in PyTorch, in evaluation mode; its modules, not ours."""
    import torch
    from torch import nn

    block_of = _torch_block(bottleneck=bottleneck)

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
                    layers.append(block_of(incoming, width, step))
                    incoming = 4 * width if bottleneck else width
                setattr(self, f"layer{stage}", nn.Sequential(*layers))
            self.fc = nn.Linear(incoming, CLASSES)

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc(x.mean(dim=(2, 3)))

    network = ResNet()
    network.load_state_dict(
        {
            name: torch.tensor(array)
            for name, array in weights(stem_side, bottleneck=bottleneck).items()
        },
        strict=True,
    )
    with torch.inference_mode():
        pixels = torch.tensor(images().transpose(0, 3, 1, 2))
        return network.eval()(pixels).numpy()
