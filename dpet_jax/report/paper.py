"""What the DPET paper reports, for comparison with our ratios."""

#: Wh to first reach 60, 65, ... 90 % test accuracy with a ResNet-18 on CIFAR-10, whole
#: machine by CodeCarbon, one seed. Only ratios can be compared between machines.
#: Source: Scala, Pontieri & Flesca (2024), "DPET: A Data and Parameter Efficient
#: Training Framework for Green AI", the table of energy to accuracy.
PAPER_WH: dict[str, tuple[float | None, ...]] = {
    "standard": (20, 39, 59, 78, 157, 626, 1018),
    "active_learning_margin": (135, 218, 288, 357, 711, 1167, 2421),
    "grand": (838, 865, 878, 902, 924, 1042, 1232),
    "craig": (175, 196, 231, 248, 344, 442, 627),
    "glister": (108, 117, 133, 172, 192, 380, 599),
    "graph_cut": (239, 364, 396, 486, 621, 762, 993),
    "rs2_20": (32, 39, 48, 65, 82, 168, 237),
    "rs2_10": (44, 59, 75, 97, 108, 153, 197),
    "rs2_5": (43, 56, 62, 77, 94, 121, None),
    "dpet_margin": (19, 38, 42, 47, 63, 94, 196),
    "dpet_entropy": (19, 39, 41, 42, 63, 99, 220),
    "dpet_least_confidence": (19, 38, 41, 42, 63, 98, 204),
}
PAPER_TARGETS = (0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90)


def paper_ratio(row: str | None, target: float) -> float | None:
    """Return the Wh of a row over those of standard training, from the paper.

    Args:
        row: A key of `PAPER_WH`; anything else gives None.
        target: An accuracy; one that is not the paper's gives None.
    """
    if row not in PAPER_WH or target not in PAPER_TARGETS:
        return None
    place = PAPER_TARGETS.index(target)
    cost, standard = PAPER_WH[row][place], PAPER_WH["standard"][place]
    return None if cost is None or standard is None else cost / standard
