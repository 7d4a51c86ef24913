"""The terms of a report, each in a sentence or two."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Term(NamedTuple):
    """A term of a report.

    Attributes:
        name: The term.
        text: What it means.
        found_by: Pattern of the words that make a report need it.
    """

    name: str
    text: str
    found_by: str


#: In the order of the alphabet.
TERMS = (
    Term(
        "auxiliary network",
        "A network that is trained to choose examples and is thrown away; what it "
        "costs is part of selection.",
        "auxiliary network",
    ),
    Term(
        "baseline",
        "What methods are compared with: standard training on all data, its rate and "
        "length tuned where the suite says so.",
        "baseline|tuned",
    ),
    Term(
        "censored",
        "Of a seed: it never reached the target, so that its cost is only known to be "
        "higher than all it has spent.",
        "censored",
    ),
    Term(
        "coreset",
        "The examples that a method chose to train on, or would keep.",
        "coreset",
    ),
    Term(
        "dearer, cheaper",
        "The cost of a method less that of the baseline, in percent of the baseline's, "
        "where both have the same accuracy. Twice the cost is 100 % dearer; from there "
        "on it is told as a factor.",
        "dearer|cheaper|[Cc]ost against",
    ),
    Term(
        "epoch",
        "A full-pass equivalent: the FLOPs of training, scoring and auxiliary "
        "networks, over those of one training pass over all training examples. A pass "
        "over a third of the data is a third of an epoch.",
        "epoch|full-pass",
    ),
    Term(
        "examples seen",
        "How many examples the network was trained on, repeats counted.",
        "examples seen|examples that the main model has seen",
    ),
    Term(
        "FLOP",
        "A floating-point operation, as counted from the shapes of the network.",
        "FLOP",
    ),
    Term(
        "measured, modelled",
        "Energy is measured where a counter of the device told it, and modelled where "
        "it is power by a formula; the two are never added up.",
        "Wh|modelled",
    ),
    Term(
        "Pareto front",
        "Those that no other beats in both cost and accuracy.",
        "[Ff]ront",
    ),
    Term(
        "power law",
        "A curve: the error falls by the same factor whenever the cost is doubled.",
        "power law",
    ),
    Term(
        "pruned",
        "Share of the training examples that were left out.",
        r"\bpruned",
    ),
    Term(
        "random control",
        "The same method with chance in the place of its choice. What the control "
        "saves as well is not saved by choosing.",
        "random",
    ),
    Term(
        "range",
        "The smallest and the largest of all seeds, unless something else is said.",
        "range",
    ),
    Term(
        "resamples",
        "Seeds drawn with replacement again and again; where most of the results lie "
        "shows how far the result hangs on the seeds at hand.",
        "resamples",
    ),
    Term(
        "round",
        "A query for new examples, and the training that follows it.",
        r"\brounds?\b",
    ),
    Term(
        "seed",
        "A repetition: the same settings, other random numbers.",
        "seed",
    ),
    Term(
        "selection",
        "Choosing examples: scoring them, ranking them, training auxiliary networks.",
        "selection|Selection",
    ),
    Term(
        "target",
        "An accuracy to be reached. What a run had spent when it was first at or above "
        "it is the cost of that target.",
        "target",
    ),
    Term(
        "tuning",
        "The search for a method's settings, on seeds that are not reported.",
        "[Tt]uning",
    ),
    Term(
        "validation, test",
        "Two sets of examples that are never trained on. Validation decides about "
        "targets and settings; test is looked at, and decides nothing.",
        "validation|test accuracy",
    ),
    Term(
        "warm, cold",
        "Costs without and with compiling and reading the data, which a process does "
        "once for all its runs.",
        "warm, that is|cold costs",
    ),
    Term(
        "warm-up",
        "Training on random parts of the data, before anything is chosen.",
        "warm-up",
    ),
)


def glossary(texts: Iterable[str]) -> list[Term]:
    """Return the terms that some texts use.

    Args:
        texts: Of a report.
    """
    whole = "\n".join(texts)
    return [term for term in TERMS if re.search(term.found_by, whole)]
