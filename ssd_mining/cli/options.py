"""The words of the command line: the options of every command, and how their text becomes values.

Only the options of the command that is asked for are built. Nothing here loads NumPy, so that ``--help`` is quick.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ssd_mining.choices import BOX_FORMATS, CHOICES, FORCE, GEOMETRIES, MATCHING_RULES, NORMALIZE, nearest_of
from ssd_mining.files.text import shown

if TYPE_CHECKING:
    from ssd_mining import Mining
    from ssd_mining.checks import InputError, InputTypeError

_PAIR = ("LOSSES-or-LOGITS", "LABELS")


class Parser(argparse.ArgumentParser):
    """A parser that tells the words that it could not read as they may be seen, and what may have been meant."""

    labels: argparse.Action | None = None  # the argument LABELS, which --boxes replaces

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Refuse a command, or the value of an option, that is none of the choices."""
        if value == []:  # argparse asks about no words at all, too
            return
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += nearest_of(str(value), action.choices or ())
            raise

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the program."""
        super().exit(status, message and "\n".join(map(shown, message.split("\n"))))


class CommandParser(Parser):
    """The parser of one command, which gets its options when its command is asked for."""

    add_options: Callable[[Parser], None]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Add the options, and parse the words of the command."""
        self.add_options(self)
        if self.labels is not None and any(word.partition("=")[0] == "--boxes" for word in args or ()):
            self.labels.nargs = "?"  # for both: an argument that may be missing is never found after an option
        known, others = super().parse_known_args(args, namespace)
        if others:
            flags = [flag.removeprefix("--") for flag in self._option_string_actions]
            word = next((word.partition("=")[0] for word in others if word.startswith("--")), "")
            near = nearest_of(word.removeprefix("--"), flags, "--") if word else ""
            self.error(f"unrecognized arguments: {' '.join(others)}{near}")
        return known, others


class OptionError(Exception):
    """An option has a value that it cannot have, or goes with another that is missing."""


def demo(parser: Parser) -> None:
    """Add the options of ``demo``."""
    parser.description = "Write synthetic losses and labels with the geometry of SSD300, then mine them."
    option = parser.add_argument
    _add_out(option, "DIR", "a new directory (default %(default)s)", default="ssd-mining-demo")
    option("--samples", metavar="N", type=_at_least(1), default=64, help="how many (default %(default)s)")
    option("--seed", metavar="N", type=_at_least(0), default=0, help="seed of the data (default %(default)s)")


def match(parser: Parser) -> None:
    """Add the options of ``match``."""
    parser.usage = "%(prog)s BOXES ANCHORS [options]"
    parser.description = "Label the anchors of every sample with the classes of the objects in it."
    parser.set_defaults(arguments={"classes": "boxes", "box_offsets": "boxes"}, labels=None)
    parser.add_argument("boxes", metavar="BOXES", help=_BOXES)
    parser.add_argument("anchors", metavar="ANCHORS", help=_ANCHORS)
    _add_matching(parser)
    option = parser.add_argument_group("how objects are matched, further").add_argument
    option("--background", metavar="C", type=int, help="label of background (default 0)")
    option("--ignore-index", metavar="C", type=int, help="label of ignored anchors (default -1)")
    option("--ids", metavar="FILE", help=_IDS)
    option = parser.add_argument_group("how it is computed").add_argument
    _add_resources(option)
    option = parser.add_argument_group("what is shown and written").add_argument
    option("--top", metavar="N", type=_at_least(0), default=5, help="unmatched objects to list (default %(default)s)")
    option("--json", action="store_true", help="print the summary as JSON instead of a table")
    written = "FILE.npy for the labels (N, A), or a new directory for labels, matched and overlaps"
    _add_out(option, "FILE-or-DIR", written)


def mine(parser: Parser) -> None:
    """Add the options of ``mine``."""
    parser.usage = "%(prog)s LOSSES LABELS [options]"
    parser.description = "Keep the hardest negatives of every sample, and sum up the losses. --boxes replaces LABELS."
    parser.set_defaults(arguments={"conf_loss": "losses", "classes": "boxes"})
    option = parser.add_argument
    option("losses", metavar="LOSSES", help=f"(N, A) losses in nats, in {_ARRAY}")
    _add_labels(parser, "(N, A) class numbers, or bools for positives; or (N, A, C) one-hot")
    parser.add_argument("--ids", metavar="FILE", help=_IDS)

    option = _add_selection(parser, [*OF_EACH_SAMPLE, *OF_THE_FILE])
    option("--seed", metavar="N", type=_at_least(0), default=0, help="seed of these draws (default %(default)s)")
    option = parser.add_argument_group("how it is computed").add_argument
    option("--normalize", choices=NORMALIZE, default="batch", help="divisor of the batch loss (default batch)")
    _add_resources(option)

    option = parser.add_argument_group("what is shown and written").add_argument
    option("--top", metavar="N", type=_at_least(0), default=5, help="worst samples to list (default %(default)s)")
    option("--json", action="store_true", help="print the summary as JSON instead of a table")
    _add_out(option, "DIR", "new directory for per_sample.csv, summary.json and what --save says")
    saved = "hard negatives as offsets.npy and anchors.npy, or as hard_negative_mask.npy (default indices)"
    option("--save", choices=("indices", "masks"), help=saved)


def report(parser: Parser) -> None:
    """Add the options of ``report``."""
    parser.usage = "%(prog)s LOSSES-or-LOGITS LABELS [options]"
    parser.description = "Analyse the losses of a whole data set: what is hard, how hard, and what mining selects."
    named = {"conf_loss": "values", "logits": "values", "ratios": "ratio_sweep", "classes": "boxes"}
    parser.set_defaults(arguments=named)
    option = parser.add_argument
    option("values", metavar="LOSSES-or-LOGITS", help=f"(N, A) losses in nats, or (N, A, C) logits, in {_ARRAY}")
    _add_labels(parser, "(N, A) class numbers, or bools for losses; or (N, A, C) one-hot")
    option("--ids", metavar="FILE", help="what the samples are called: text, a line for each, or an array of names")

    option = parser.add_argument_group("what is analysed").add_argument
    option("--top", metavar="K", type=_at_least(0), default=50, help="worst samples and anchors (default 50)")
    levels, ratios = "anchors of each feature map, in order", "negatives per positive to compare (default 1,2,3,5,10)"
    option("--levels", metavar="N,N,...", type=_several(int, "whole numbers"), help=f"{levels}, for a table by level")
    option("--ratio-sweep", metavar="R,R,...", type=_several(float, "numbers"), help=ratios)
    names = "what the classes are called: text, a line for each, from class 0"
    option("--class-names", metavar="FILE", help=names)
    option("--classification", choices=("softmax", "sigmoid"), help="the loss of logits (default softmax)")
    option = parser.add_argument_group("what is known beside losses and labels").add_argument
    for name in ("matched", "overlaps"):
        option(f"--{name}", metavar="FILE", help="(N, A), as match --out writes it; --boxes give it too")
    option("--images", metavar="DIR", help="the images, called as the samples: the page shows the worst")
    option("--loc-pred", metavar="FILE", help="(N, A, 4) predicted offsets of the anchors, for the localization loss")
    option(
        "--loc-target", metavar="FILE", help="(N, A, 4) target offsets; --boxes give them, by variances 0.1 and 0.2"
    )
    option("--beta", metavar="X", type=float, help="where the parabola of the smooth L1 loss ends (default 1)")
    _add_selection(parser, OF_EACH_SAMPLE)

    option = parser.add_argument_group("how it is computed").add_argument
    _add_resources(option)
    option("--shard", metavar="I/N", type=_shard, help="analyse part I of N only, for ssd-mining merge")
    _add_report_output(parser)


def merge(parser: Parser) -> None:
    """Add the options of ``merge``."""
    parser.usage = "%(prog)s DIR [DIR ...] [options]"
    parser.description = "Make the report that one run would have made from what --shard runs have written."
    parser.add_argument("shards", metavar="DIR", nargs="+", help="what report --shard I/N has written, in any order")
    _add_report_output(parser)


def compare(parser: Parser) -> None:
    """Add the options of ``compare``."""
    parser.usage = "%(prog)s A B [options]"
    parser.description = "Say what changed from report A to report B: losses, samples, and which negatives are mined."
    option = parser.add_argument
    option("a", metavar="A", help="the directory of a report")
    option("b", metavar="B", help="the directory of another, of the same samples")
    option("--top", metavar="K", type=_at_least(0), default=50, help="samples that got worse or better (default 50)")

    option = parser.add_argument_group("which negatives are mined").add_argument
    option("--no-churn", action="store_true", help="leave this out: it mines the arrays of both reports again")
    option("--inputs-a", nargs=2, metavar=_PAIR, help="where the arrays of A are now (default: see its summary.json)")
    option("--inputs-b", nargs=2, metavar=_PAIR, help="where the arrays of B are now")
    _add_resources(option)

    option = parser.add_argument_group("what is shown and written").add_argument
    option("--json", action="store_true", help="print the comparison as JSON instead of a table")
    _add_out(option, "DIR", "a new directory for comparison.json, changes.csv and comparison.html")
    option("--no-page", action="store_true", help="leave out comparison.html, which needs matplotlib and jinja2")


def recipes(parser: Parser) -> None:
    """Add the options of ``recipes``."""
    parser.usage = "%(prog)s LOGITS LABELS [options]"
    parser.description = "Say what each known system would print as the loss of a batch: which of them is yours?"
    parser.set_defaults(arguments={"loc_pred": "locations", "loc_target": "locations"}, out=None)
    option = parser.add_argument
    option("logits", metavar="LOGITS", help=f"(B, A, C) scores before softmax, in {_ARRAY}")
    option("labels", metavar="LABELS", help="(B, A) class numbers")
    option("--loss", metavar="X", help="what a trainer printed for this batch, with all its digits")
    option("--background", metavar="C", type=int, help="background class of LABELS; -1 is the last one")
    option("--ignore-index", metavar="C", type=int, help="label of anchors to ignore (default none)")
    predicted = "predicted and target offsets (B, A, 4): their loss is added (default none)"
    option("--locations", nargs=2, metavar=("PREDICTED", "TARGET"), help=predicted)
    option("--recipes", metavar="NAME,NAME,...", type=_names, help="which ones to compare (default all)")
    option("--num-threads", metavar="N", type=_at_least(1), help="threads to use (default all)")
    option("--strict", action="store_true", help="end with an error where there would be a warning about the data")
    option("--json", action="store_true", help="print the result as JSON instead of a table")


def doctor(parser: Parser) -> None:
    """Add the options of ``doctor``."""
    parser.description = "Say which versions, processors, threads, cache and optional packages are there."
    parser.set_defaults(out="the cache")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def warmup(parser: Parser) -> None:
    """Add the options of ``warmup``."""
    parser.description = "Compile the kernels now and keep them in the cache, so that no later run has to wait."
    parser.set_defaults(out="the cache")
    what = "what to compile (default all): mining of losses, losses of logits, reports and analyses, matching"
    parser.add_argument("parts", metavar="PART", nargs="*", choices=PARTS, help=f"{', '.join(PARTS)}: {what}")
    where = "what will run them (default cpu); cuda compiles for the first GPU, mining and logits only"
    parser.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help=where)
    how_many = "anchors of a sample, for --backend cuda (default 8732): there is a kernel for each thousand"
    parser.add_argument("--anchors", type=_at_least(1), default=8732, metavar="N", help=how_many)


# What several commands share

PARTS = ("mining", "logits", "analysis", "matching")
_ARRAY = "file.npy, file.npz:key, file.safetensors:tensor, store.zarr:path or file.h5:dataset"
_BOXES = "COCO's instances.json, a directory of YOLO's text files, or file.npz with boxes, classes and box_offsets"
_ANCHORS = f"(A, 4) in a file, or one of {', '.join(GEOMETRIES)}"
_IDS = "which samples of BOXES, in which order: text, a line for each, or an array of names"


def _add_labels(parser: Parser, what: str) -> None:
    """Add LABELS, or in place of them boxes and anchors, and how they are matched."""
    parser.labels = parser.add_argument("labels", metavar="LABELS", help=what)
    option = parser.add_argument_group("boxes in place of LABELS").add_argument
    option("--boxes", metavar="BOXES", help=_BOXES)
    option("--anchors", metavar="ANCHORS", help=_ANCHORS)
    _add_matching(parser)


def _add_matching(parser: Parser) -> None:
    option = parser.add_argument_group("how boxes are matched with anchors").add_argument
    option("--rule", choices=MATCHING_RULES, help="the rule of a system (default: bipartite, then an IoU of 0.5)")
    option("--pos-iou", metavar="X", type=float, help="overlap from which an anchor is positive")
    lowest = "overlap below which an anchor is background; two: from which, and below which"
    option("--neg-iou", metavar="X[,Y]", type=_several(float, "one or two numbers"), help=lowest)
    option("--force", choices=FORCE, help="which anchors an object gets however small the overlap")
    option("--anchor-format", choices=BOX_FORMATS, help="what the four numbers in a file are (default xyxy)")
    size = "the anchors are in pixels of images of this height and width, and not in shares of the image"
    option("--image-size", metavar="H[,W]", type=_several(int, "whole numbers"), help=size)


class _Field(NamedTuple):
    """The option for a field of `Mining`, whose name and choices it has."""

    help: str
    metavar: str | None = None
    parse: Callable[[str], object] = str


def share_or_count(text: str) -> float:
    """Parse a whole number, or a share below 1."""
    try:
        return int(text)
    except ValueError:
        return float(text)


# The fields of `Mining` that the command line offers; the others need more than the losses and labels of a file.
_RULE_OPTIONS = {
    "background": _Field("background class; class numbers need it (one-hot: the last)", "C", int),
    "neg_pos_ratio": _Field("negatives kept per positive (default 3)", "R", float),
    "rounding": _Field("how ratio times positives is rounded (default floor)"),
    "extra_negatives": _Field("negatives kept beyond that ratio, per sample (default 0)", "N", int),
    "min_negatives": _Field("keep at least N; below 1, a share of the anchors (default 0)", "N", share_or_count),
    "min_negatives_when": _Field("when that minimum holds (default always)"),
    "max_negatives": _Field("keep at most N (default no limit)", "N", int),
    "tie_policy": _Field("keep the first, none or all of equal losses at the cut (default index)"),
    "skip_hardest": _Field("skip the N hardest (default 0)", "N", int),
    "ignore_index": _Field("label of anchors to ignore (default none)", "C", int),
    "nan_policy": _Field("NaN is an error, ranks hardest, or is ignored (default raise)"),
    "all_zero": _Field("what an all-zero one-hot row means (default positive)"),
    "scope": _Field("what shares a quota; all but sample need the whole file (default sample)"),
    "pool_size": _Field("draw from a pool X times as large as the quota (default 1)", "X", float),
}
OF_THE_FILE = ["scope", "pool_size"]  # these look beyond the sample
OF_EACH_SAMPLE = [name for name in _RULE_OPTIONS if name not in OF_THE_FILE]


def _add_selection(parser: Parser, names: list[str]) -> Callable[..., argparse.Action]:
    """Add the options for fields of `Mining`; return what adds another to their group."""
    option = parser.add_argument_group("which negatives are kept").add_argument
    for name in names:
        field = _RULE_OPTIONS[name]
        flag, choices = f"--{name.replace('_', '-')}", CHOICES.get(name)
        option(flag, metavar=field.metavar, type=field.parse, choices=choices, help=field.help)
    return option


def mining_of(args: argparse.Namespace) -> "Mining":
    """Return the selection rule that the options say."""
    from ssd_mining import Mining

    given = {name: getattr(args, name, None) for name in _RULE_OPTIONS}
    return Mining(**{name: value for name, value in given.items() if value is not None})


def in_users_words(args: argparse.Namespace, error: "InputError | InputTypeError") -> tuple[int, str] | None:
    """Return the exit code and the message for an error about an argument that a file or an option became.

    None where the argument is neither: then the fault is ours. ``args.arguments`` says which argument of the library
    the user knows by another name.
    """
    culprit = _users_word(args, error.argument)
    if culprit is None:
        return None

    def renamed(found: re.Match[str]) -> str:
        word = _users_word(args, found["name"]) if found["value"] or "_" in found["name"] else None
        return found[0] if word is None else " ".join(filter(None, (word, found["value"])))

    return 2 if culprit.startswith("--") else 3, f"{culprit}: {_ARGUMENT.sub(renamed, error.problem)}"


# How messages of the library speak of an argument: nan_policy="omit", max_negatives.
_ARGUMENT = re.compile(r"""\b(?P<name>[a-z_]+)\b(?:=["']?(?P<value>[\w.-]+)["']?)?""")


def _users_word(args: argparse.Namespace, argument: str) -> str | None:
    """Return the file or the option that became an argument of the library; None where there is none."""
    name = getattr(args, "arguments", {}).get(argument, argument)
    if name not in vars(args):
        return None
    if name in ("losses", "values", "logits", "labels", "boxes", "anchors"):
        return str(getattr(args, name) or args.boxes)
    return f"--{name.replace('_', '-')}"


def _add_resources(option: Callable[..., argparse.Action]) -> None:
    option("--num-threads", metavar="N", type=_at_least(1), help="threads to use (default all)")
    memory = "data to hold at a time, unless one sample is more (default %(default)s)"
    option("--max-memory", metavar="MIB", type=_at_least(1), default=256, help=memory)
    option("--strict", action="store_true", help="end with an error where there would be a warning about the data")


def _add_out(option: Callable[..., argparse.Action], metavar: str, what: str, default: str | None = None) -> None:
    option("--out", metavar=metavar, default=default, help=what)
    option("--overwrite", action="store_true", help="replace what this command has written there before")


def _add_report_output(parser: Parser) -> None:
    option = parser.add_argument_group("what is shown and written").add_argument
    _add_out(option, "DIR", "a new directory for the report")
    option("--no-page", action="store_true", help="leave out report.html, which needs matplotlib and jinja2")
    option("--json", action="store_true", help="print the summary as JSON instead of a table")


def _at_least(lowest: int) -> Callable[[str], int]:
    """Return a function that parses a whole number of at least `lowest`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            msg = f"expected a whole number of at least {lowest}, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return parse


def _several(kind: type[float], what: str) -> Callable[[str], tuple[float, ...]]:
    """Return a function that parses numbers with commas between them."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            return tuple(map(kind, text.split(",")))
        except ValueError:
            msg = f"expected {what} with commas between them, got {text!r}"
            raise argparse.ArgumentTypeError(msg) from None

    return parse


def _names(text: str) -> list[str]:
    return text.split(",")


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        msg = f"expected I/N with I from 1 to N, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(number), int(count)
