"""The codes: what each rule is, why there is one, how to mend a file.

Every code that Composer can say stands here and nothing else does; a test holds both sides equal and runs the examples.
What a blueprint alone cannot show has its example in `examples/CODE.yaml` (see `scene`); `catalogue` shows all of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "BP0": "reading a file",
        "BP1": "names",
        "BP2": "options and wiring",
        "BP3": "types",
        "BP4": "values against types",
        "BP5": "sizes and inputs",
        "BP6": "plugins",
        "BP7": "weights and memory",
        "BP8": "images and files",
        "BP9": "Composer itself",
    }
)
"""What the first digit of a code says."""


@dataclass(frozen=True)
class Code:
    """One rule. `broken` and `mended` are whole blueprints; both are empty where no blueprint alone can break it."""

    code: str
    title: str
    text: str
    broken: str = ""
    mended: str = ""

    @property
    def group(self) -> str:
        """What all codes of this digit are about."""
        return GROUPS[self.code[:3]]


def _file(graph: str, *, head: str = "", image: str = "B 3 H W", output: str = "head") -> str:
    """A whole blueprint around the nodes that matter."""
    top = ["blueprint: 1", *filter(None, textwrap.dedent(head).strip("\n").split("\n")), f"inputs: {{image: {image}}}"]
    nodes = textwrap.indent(textwrap.dedent(graph).strip("\n"), "  ")
    return "\n".join([*top, "graph:", nodes, f"outputs: {{y: {output}}}", ""])


def _extending(text: str) -> str:
    return "blueprint: 1\n" + textwrap.dedent(text).strip("\n") + "\n"


LOCKED = """\
lock: 1
content:
  composer: "8e633b4f41f99d4c"
  of: b947d6dc7df085ed
  distributions: aaf487f4013f18b8
  blocks: "1e7cc46fefc8ff4a"
  params: "44136fa355b3678a"
  sizes: "4f53cda18c2baa0c"
  types: d5c1cb7d3026f65a
  graph: "803db1889c16843c"
composer: "0.1.0"
of: {blueprint: one.yaml}
distributions: {blueprint-composer: {version: "0.1.0", blocks: [act.relu]}}
blocks: {act.relu: {hash: afb893369a4a3c7a, ports: {x: required}}}
params: {}
sizes: []
types: {image: "(B, 3, H, W)", head: "(B, 3, H, W)"}
graph:
  blueprint: 1
  name: one
  inputs: {image: B 3 *S}
  graph:
    head: act.relu
  outputs: {"y": head}
"""
"""A lock of one node. Made by `composer lock`: it holds hashes, so it is made again where the format changes."""

_READING = (
    Code(
        "BP001",
        "a file cannot be read",
        """The file is not there, is a folder or a device, may not be opened, or is not a UTF-8 text. Nothing else can
        be said about it. Give the path of a text file, or the name of a shipped blueprint (`composer list`); save a
        text of another encoding as UTF-8. It depends on the path given to a command, not on what a blueprint says.""",
    ),
    Code(
        "BP002",
        "a file is too large",
        """A blueprint may come from a stranger, so what it can cost is bounded before it is read: bytes, values, depth
        of nesting, aliases and digits of a number. The bounds are far above every real network. Use `repeat` and `for`
        in place of written-out copies, and quote long digits if they are a text.""",
        _file("head: {use: conv, out: " + "1" * 70 + "}"),
        _file("head: {use: conv, out: 16}"),
    ),
    Code(
        "BP003",
        "not valid YAML",
        """The text is not YAML, so it has no keys and values yet. The usual causes are an expression inside { } or [ ]
        without quotes, a value that begins with @, * or %, a colon inside a text, a tab, and a bracket that is not
        closed. Quotes around the value mend all but the last two.""",
        _file("head: {use: conv, out: ${2 * 8}}"),
        _file('head: {use: conv, out: "${2 * 8}"}'),
    ),
    Code(
        "BP004",
        "a key stands twice",
        """Two equal keys in one mapping: YAML libraries keep the last one in silence, and the first would have no
        effect. Remove one of them, or give two nodes two names.""",
        _file("""
            head: {use: conv, out: 8}
            head: {use: conv, out: 16}
        """),
        _file("""
            stem: {use: conv, out: 8}
            head: {use: conv, out: 16}
        """),
    ),
    Code(
        "BP005",
        "the merge key is refused",
        """`<<` copies keys from elsewhere, so that a value has no place of its own, and a few hundred bytes of it can
        fill a memory. Write the keys out, make a parameter for what is shared, or use `extends:` for a whole
        blueprint.""",
        _file("""
            stem: &same {use: conv, out: 8}
            head: {<<: *same, kernel: 1}
        """),
        _file("""
            stem: {use: conv, out: 8}
            head: {use: conv, out: 8, kernel: 1}
        """),
    ),
    Code(
        "BP006",
        "a file is one mapping",
        """A file holds one blueprint, and a blueprint is a mapping of keys to values: not a list, not a bare text, not
        nothing, and not a second document behind `---`. Begin the file with `blueprint: 1`, and give a second network
        a file of its own.""",
        "- blueprint: 1\n- graph: {head: conv}\n",
        _file("head: conv"),
    ),
    Code(
        "BP007",
        "tags, and keys that are not texts",
        """A tag such as `!!python/name:os.system` asks the reader to make something other than plain data; a blueprint
        is data only, so every tag is refused. Keys are texts: a number, true or null as a key is refused as well,
        because it would not be the name that stands there. Remove the tag, or quote the key.""",
        _file("head: {use: conv, out: !!int 16}"),
        _file("head: {use: conv, out: 16}"),
    ),
)

_NAMES = (
    Code(
        "BP101",
        "an unknown or missing key",
        """A document, a parameter, an input and an edit have a fixed set of keys, so that a misspelling is found and
        not skipped. The message lists the keys there are. Every file begins with `blueprint: 1`; it has `inputs`,
        `graph` and `outputs`, unless it `extends` another, whose graph it changes by `edit`.""",
        _file("head: conv", head="sumary: a small network"),
        _file("head: conv", head="summary: a small network"),
    ),
    Code(
        "BP102",
        "an unknown block",
        """`use:` names neither an installed block nor a shipped blueprint. Names are whole: `norm.layer`, not `layer`;
        only in a slot, or in a node called `norm`, the short name is enough. `composer blocks` lists what is
        installed.""",
        _file("head: {use: convolve, out: 8}"),
        _file("head: {use: conv, out: 8}"),
    ),
    Code(
        "BP103",
        "a plugin is missing",
        """The block's name begins with a word that no installed plugin uses, or `requires:` names a plugin that is not
        installed, too old, broken or switched off. `composer check` and `composer show` draw the graph all the same,
        with unknown types. Composer installs nothing by itself: a file may never cause a download. Install the plugin
        with pip, or use a block that is there.""",
        _file("head: {use: my_lab.conv, out: 8}"),
        _file("head: {use: conv, out: 8}"),
    ),
    Code(
        "BP104",
        "no value of that name",
        """A reference names an input, a node above it, a copy (`stage.1`), or one of several outputs (`maps.fine`).
        Inside an inline graph only its own inputs and nodes are in sight; a leading dot reaches the graph around it.
        The message lists the values in sight. Nodes are computed in order, so a node below must be moved up.""",
        _file("""
            stem: {use: conv, out: 8}
            head: {use: fuse.concat, from: [stem, imge]}
        """),
        _file("""
            stem: {use: conv, out: 8}
            head: {use: fuse.concat, from: [stem, image]}
        """),
    ),
    Code(
        "BP105",
        "an unknown blueprint, preset, parameter or pass",
        """A name given to a command, in `extends:`, in a preset, as `key=value` or to `--without` is not known.
        `composer list` shows the blueprints and their presets, `composer show NAME` the parameters, and with `--passes`
        the passes. A path must end in .yaml or contain a slash.""",
        _extending("""
            extends: vitt
            params: {classes: 2}
        """),
        _extending("""
            extends: vit
            params: {classes: 2}
        """),
    ),
    Code(
        "BP106",
        "an edit matches nothing",
        """An edit whose address no part has would be without effect, and nobody would notice, so it is an error. In an
        address `*` is one segment and `**` several: the copies of `blocks` are `blocks.*`, their parts
        `blocks.*.attention`. On a command line names may be left out in between: `encoder.0.attention.window=4`. The
        message names the nearest addresses; `composer show NAME` prints all of them.""",
        _extending("""
            extends: vit
            edit:
              - {at: blocks.*.atention, set: {heads: 6}}
        """),
        _extending("""
            extends: vit
            edit:
              - {at: blocks.*.attention, set: {heads: 6}}
        """),
    ),
    Code(
        "BP107",
        "a name that cannot name a node",
        """A node's name is part of addresses and of the names of weights. It has letters, digits and underscores, does
        not begin with a digit, is not a word of the language (use, from, repeat, …), and is not taken: two nodes of
        one graph, also inserted ones, need two names. Neither can it be something that every torch module has, such as
        `train`.""",
        _file("""
            first: {use: conv, out: 8}
            head: {use: conv, out: 2}
        """),
        _file("""
            stem: {use: conv, out: 8}
            head: {use: conv, out: 2}
        """),
    ),
    Code(
        "BP108",
        "something that nothing uses",
        """A parameter, an input or a node that nothing reads has no effect. Mostly a reference points elsewhere than
        meant, or a skip was forgotten. Read it in a `from:`, in `outputs:` or in an expression, or remove it.""",
        _file("head: {use: conv, out: 8}", head="params: {width: 8}"),
        _file("head: {use: conv, out: $width}", head="params: {width: 8}"),
    ),
    Code(
        "BP109",
        "a circle",
        """Something depends on itself: nodes that read each other, parameters computed from each other, a blueprint
        that extends or uses itself. A network is computed in order, so the circle must be opened. What flows from copy
        to copy is written with `repeat`, or with `for` and `carry`.""",
        _file("""
            stem: {use: fuse.add, from: [image, head]}
            head: {use: conv, from: stem}
        """),
        _file("""
            stem: {use: conv, from: image}
            head: {use: conv, from: stem}
        """),
    ),
    Code(
        "BP110",
        "two edits on one place",
        """Of two edits in one list the later one leaves nothing of the earlier, wherever that one applies: it removes
        or replaces the same parts, or sets the same options. One of them is meant to stand elsewhere. An exception to a
        glob is no such case, and a blueprint may undo what the one it extends did.""",
        _extending("""
            extends: vit
            edit:
              - {at: blocks.*.attention, set: {heads: 6}}
              - {at: blocks.*.attention, set: {heads: 8}}
        """),
        _extending("""
            extends: vit
            edit:
              - {at: blocks.*.attention, set: {heads: 6}}
              - {at: blocks.0.attention, set: {heads: 8}}
        """),
    ),
    Code(
        "BP112",
        "a tap that names no attention",
        """`tap:` in a blueprint, `network.tap` and `composer run --tap` name nodes whose weights of attention are
        wanted: by their own address, or by that of a node around them. One that names none would be without effect. The
        message lists the attentions there are, with `*` for numbers. An output cannot be called `taps`, because a
        network with `tap:` gives the weights under that name.""",
        _extending("""
            extends: vit
            tap: [blocks.*.atention]
        """),
        _extending("""
            extends: vit
            tap: [blocks.*.attention]
        """),
    ),
)

_OPTIONS = (
    Code(
        "BP201",
        "a value that does not fit",
        """A key, a parameter or an option takes certain values only: a type, a range, one of several words, one number
        per axis. The message says which. Numbers are not taken from texts, and true is no number. `composer blocks
        NAME` shows the options of a block with their types.""",
        _file("head: {use: conv, out: 8, kernel: 0}"),
        _file("head: {use: conv, out: 8, kernel: 3}"),
    ),
    Code(
        "BP202",
        "something is missing",
        """An option or a slot without a default is not given, a parameter has no value, or a node says neither `use:`
        nor `graph:`. There is no value that would be right for all networks, so it must be chosen.""",
        _file("head: {use: tokenizer.patch, patch: 4}"),
        _file("head: {use: tokenizer.patch, patch: 4, dim: 64}"),
    ),
    Code(
        "BP203",
        "inputs that do not fit the block",
        """A block has named inputs, some of them optional. `from: a` gives the first one, `from: {x: a, skip: b}`
        several by name; a list goes only to blocks that join any number of values. The message lists the inputs there
        are.""",
        _file("head: {use: conv, from: {x: image, skip: image}}"),
        _file("head: {use: conv, from: {x: image}}"),
    ),
    Code(
        "BP204",
        "no such option",
        """The block has no option of this name, so it would be without effect. The message names the nearest option
        and lists all. Beside an inline `graph:` there are no options; they belong to the nodes below it.""",
        _file("head: {use: conv, out: 8, kernal: 3}"),
        _file("head: {use: conv, out: 8, kernel: 3}"),
    ),
    Code(
        "BP205",
        "an expression cannot be computed",
        """`$name` and `${…}` know numbers, texts, lists, arithmetic, comparisons, `a if c else b`, index and slice,
        and the functions min, max, sum, len, ceil, reversed, ramp and refs. Nothing else of Python: no attributes, no
        other calls. The message points at the part that fails: an unknown name, an index beyond the end, a division by
        zero.""",
        _file('head: {use: conv, out: "${widths[2]}"}', head="params: {widths: [8, 16]}"),
        _file('head: {use: conv, out: "${widths[1]}"}', head="params: {widths: [8, 16]}"),
    ),
    Code(
        "BP206",
        "the lists of a loop",
        """`for:` is a mapping of names to lists of equal length; instance number i gets the i-th item of each. A
        shorter list would mean instances without a value. A name of the loop may not hide a parameter. Cut lists by
        slices, such as `${widths[1:]}`.""",
        _file("head: {for: {out: [8, 16], kernel: [3]}, use: conv, out: $out, kernel: $kernel}"),
        _file("head: {for: {out: [8, 16], kernel: [3, 1]}, use: conv, out: $out, kernel: $kernel}"),
    ),
    Code(
        "BP207",
        "not a block",
        """Where a block is wanted (a node, a slot) there is a number, a list or nothing. A block is written as a name
        (`relu`), as `{use: …}` with options, or as an inline graph. null leaves a slot empty, not a node; to leave out
        a node write `when: false`.""",
        _file("head: {use: conv, out: 8, act: 3}"),
        _file("head: {use: conv, out: 8, act: relu}"),
    ),
)

_TYPES = (
    Code(
        "BP301",
        "types that do not fit each other",
        """Two values that meet must agree: channels where they are added, grids where they are joined. The message
        shows both types and the nodes they came through, and the values in sight that would fit, each of which was
        tried. Strides are the usual cause: a map of half the size must be upsampled first, or another skip taken.""",
        _file("""
            stem: {use: conv, out: 8}
            head: {use: fuse.add, from: [stem, image]}
        """),
        _file("""
            stem: {use: conv, out: 3}
            head: {use: fuse.add, from: [stem, image]}
        """),
    ),
    Code(
        "BP302",
        "the wrong kind of value",
        """Blocks take maps (a grid of channels), tokens, queries or vectors. A map and its tokens are one value, which
        Composer reshapes; but a vector has lost its grid, and queries never had one. Take the value from before the
        pooling, or use a block for what there is: `linear` works on all of them.""",
        _file("""
            mean: {use: pool.average, kernel: grid}
            head: {use: conv, out: 2}
        """),
        _file("""
            mean: {use: pool.average, kernel: grid}
            head: {use: linear, out: 2}
        """),
    ),
    Code(
        "BP303",
        "extra tokens in the way",
        """Tokens in front of a grid, such as a class token, are part of the type. A block that needs a map cannot put
        them anywhere, and leaving them out in silence would change the network. Drop them with `tokens.drop`, or take
        the class token with `tokens.take`.""",
        _file("""
            patches: {use: tokenizer.patch, dim: 64, patch: 4}
            cls: tokens.prepend
            head: {use: conv, out: 2}
        """),
        _file("""
            patches: {use: tokenizer.patch, dim: 64, patch: 4}
            cls: tokens.prepend
            grid: tokens.drop
            head: {use: conv, out: 2}
        """),
    ),
    Code(
        "BP304",
        "a part must keep, or share, a type",
        """A residual branch is added to what went in, so it must return the same channels and grid; where it must not,
        `block.residual` takes a `shortcut` that changes the other side alike. In the same way, weights that are used
        twice must be used with the same options and channels.""",
        _file("head: {use: block.residual, body: {use: conv, out: 8}}"),
        _file("head: {use: block.residual, body: {use: conv, out: 8}, shortcut: {use: conv, out: 8, kernel: 1}}"),
    ),
)

_SMALL = "{type: B 3 H W, size: [32, 32]}"

_MEMORY = """
patches: {use: tokenizer.patch, dim: 64, patch: 4}
head:
  use: block.transformer
  attention: {use: attention.window, window: 4, heads: 4}
  memory: {use: memory.global_tokens, attention: {use: attention.multihead, heads: 4}}
"""

_VALUES = (
    Code(
        "BP400",
        "a rule of a block",
        """A block found that its options and inputs do not go together and gave no more special code; what it wants
        stands in the message. The shipped blocks always give one, so no example can be shown: this code comes from a
        plugin's block.""",
    ),
    Code(
        "BP401",
        "a number that does not divide",
        """Heads, groups and repeated channels need a number that divides the channels. The channels are inferred, so
        the number is not wrong by itself, but at this place. Choose a divisor, or change the width where it was
        chosen.""",
        _file("""
            stem: {use: conv, out: 64}
            head: {use: attention.multihead, heads: 5}
        """),
        _file("""
            stem: {use: conv, out: 64}
            head: {use: attention.multihead, heads: 4}
        """),
    ),
    Code(
        "BP402",
        "a size must be known",
        """A learned position table and some window policies depend on the size that the network is built for, and this
        input leaves its size open. Give the input a `size`; where the block allows it, other sizes may still be
        fed.""",
        _file("""
            patches: {use: tokenizer.patch, dim: 64, patch: 4}
            head: position.learned
        """),
        _file(
            """
            patches: {use: tokenizer.patch, dim: 64, patch: 4}
            head: position.learned
            """,
            image="{type: B 3 H W, size: [32, 32]}",
        ),
    ),
    Code(
        "BP403",
        "a fixed size that does not fit",
        """The size of a map is a plain number here, because the input's type gives numbers or a block made it so, and
        it is not a multiple of what a block needs, or too small. Change the number, or name the axes (`B 3 H W`), so
        that the sizes that fit can be computed: `composer check FILE`.""",
        _file("head: {use: tokenizer.patch, dim: 64, patch: 16}", image="B 3 40 40"),
        _file("head: {use: tokenizer.patch, dim: 64, patch: 16}", image="B 3 48 48"),
    ),
    Code(
        "BP404",
        "a state without a place to live",
        """Some blocks carry a state beside the value, such as global tokens. It starts as a parameter of the nearest
        enclosing `repeat`, which hands it from copy to copy and drops it at the end. Outside of every `repeat` it
        would have no beginning: put the block into a `repeat`, if need be `repeat: 1`.""",
        _file(_MEMORY, image=_SMALL),
        _file(_MEMORY.replace("head:", "head:\n  repeat: 2"), image=_SMALL),
    ),
)

_SIZES = (
    Code(
        "BP501",
        "a size that is not valid",
        """Patches, strides, merges and windows make demands on the size of the input. They are collected over the
        whole network; the message names the nodes that make them and the nearest valid sizes. It is about the size the
        network is built for, or the image that is fed. Use a valid size, or options that pad: `composer check FILE`
        lists the valid ones.""",
        _file("head: {use: tokenizer.patch, dim: 64, patch: 16}", image="{type: B 3 H W, size: [40, 48]}"),
        _file("head: {use: tokenizer.patch, dim: 64, patch: 16}", image="{type: B 3 H W, size: [48, 48]}"),
    ),
    Code(
        "BP502",
        "a wrong number of axes",
        """A network for images has two axes beside batch and channels, one for volumes three. The size it is built
        for, and the image that is fed, must have as many. With `*S` in the type the rank is the length of `size`, and
        one file serves both.""",
        _file("head: {use: conv, out: 8}", image="{type: B 3 H W, size: [32, 32, 32]}"),
        _file("head: {use: conv, out: 8}", image="{type: B 3 *S, size: [32, 32, 32]}"),
    ),
    Code(
        "BP503",
        "an input that is not there, or missing",
        """A network is fed by the names of its inputs, and all that are not optional must be given. The message lists
        them. Rename the input in the file, or use its name in the call.""",
        "# fed: image of shape 1, 3, 64, 64\n"
        + _file("head: {use: conv, from: scan, out: 8}").replace("{image: B 3", "{scan: B 3"),
        "# fed: image of shape 1, 3, 64, 64\n" + _file("head: {use: conv, from: image, out: 8}"),
    ),
    Code(
        "BP504",
        "a wrong number of channels",
        """The image has another number of channels than the first axis after the batch in the input's type. Grey
        images have one, colour images three, several sequences of one examination one each. Set the parameter for it
        (`channels=1`), or repeat a grey image by the block `repeat_channels`.""",
        "# fed: image of shape 1, 1, 64, 64\n" + _file("head: {use: conv, out: 8}"),
        "# fed: image of shape 1, 1, 64, 64\n" + _file("head: {use: conv, out: 8}", image="B 1 H W"),
    ),
)

_PLUGINS = (
    Code(
        "BP601",
        "a plugin does not load",
        """Importing an installed plugin, or the Python file given by `--plugin FILE`, failed; the message has the
        place in its code. The blocks of that plugin are missing and everything else works. `composer plugins` shows it
        again; update the plugin, uninstall it, or tell its author. No blueprint can cause it.""",
    ),
    Code(
        "BP602",
        "a name that two plugins claim",
        """Two plugins bring a block, a blueprint, a format or a pass of the same name, or a plugin brings a blueprint
        named like a shipped one. Taking either in silence would change networks from one machine to the next, so the
        name belongs to nobody (a shipped blueprint keeps its own) until one of the two is uninstalled or renamed.
        `composer plugins` shows who brings what. It depends on what is installed, not on a blueprint.""",
    ),
    Code(
        "BP603",
        "the shape rule of a block failed",
        """A block of a plugin broke while it computed the type of its result, instead of refusing its options or
        inputs with a message. The message has the place in the plugin's code and the node. Tell its author; until then
        try other options.""",
    ),
    Code(
        "BP604",
        "a block cannot be built",
        """The types fit, but a plugin's block failed while its module was made (`composer run`, or `build()` in
        Python). The message has the node, its options and the fault. Tell the author of the block; until then try
        other options.""",
    ),
    Code(
        "BP605",
        "a block whose cost cannot be counted",
        """`composer cost` and the comparison with the machine's memory run a network on tensors that have sizes and no
        numbers. The module of a block asked for a number (`.item()`, an `if` on a tensor, a conversion to numpy), or
        failed on these shapes. The message names the node; tell the author of the block. Building and running the
        network are not touched by it.""",
    ),
    Code(
        "BP606",
        "a plugin of another version of the plugin API",
        """A plugin says for which version of Composer's hooks it was written (`composer_api = "1"` in its module). This
        Composer has another one, so the plugin is not loaded rather than called in a way that it does not know. Update
        the side that the message names. Everything else works without it.""",
    ),
    Code(
        "BP607",
        "two versions of one plugin",
        """Two versions of one distribution are installed in the same folder, as an interrupted upgrade leaves them.
        Whose code is imported cannot be told, so the plugin is not loaded. Uninstall it until nothing is left, then
        install it again. A version in another folder of the path is no mistake: the first one counts.""",
    ),
    Code(
        "BP608",
        "an installation that is not as it looks",
        """A warning that stops nothing. `COMPOSER_PLUGINS` names a plugin that is not installed, or a plugin has a
        function with the name of a hook that is not marked as one, so that nobody calls it, or imports torch as soon as
        it is imported, which makes every command slower.""",
    ),
    Code(
        "BP609",
        "an old name",
        """A warning that stops nothing: the plugin that brings a block has renamed it or one of its options, and the
        blueprint uses the old name. The network is the same. Write the new name, which the message gives, since a later
        version of the plugin may forget the old one.""",
    ),
    Code(
        "BP610",
        "a pass of a plugin failed",
        """A plugin rewrites compiled networks, and its rewriting broke or gave something that is no program. The
        blueprint is well. Build without that plugin (`COMPOSER_PLUGINS`, `--no-plugins`), and tell its author.""",
    ),
    Code(
        "BP611",
        "a block whose traits its module does not keep",
        """A block promises in `traits()` what passes may rely on, such as that it is a linear map with a `weight`. At
        evaluation a pass took it at its word, and its module has no such thing. The message names the node and the
        pass; leave the pass out (`--without`, `build(without=…)`), and tell the author of the block.""",
    ),
    Code(
        "BP612",
        "nothing to measure against",
        """`composer bench` holds a network against another implementation of it: one that a plugin has, or what a
        factory of your own makes (`--against file.py:function`). Here there is none of that name, its package is not
        installed, it has nothing like a parameter that was set, it fails, or its outputs have other shapes. A factory
        is called with nothing or with the blueprint, and gives a module that takes the blueprint's inputs in their
        order. `--against plain` is always there: the network itself, without passes.""",
    ),
    Code(
        "BP650",
        "what a lock was made with is not installed",
        """A lock (`composer lock`) names the distribution of every block in it, and this one is not installed, switched
        off or does not load. `composer show` draws the lock all the same, with the types that it holds; building the
        network needs the plugin. Install the version that the message names. It is a warning where another
        distribution brings the same blocks.""",
    ),
    Code(
        "BP651",
        "another version than the locked one",
        """A distribution, or Composer itself, is installed in another version than the one a lock was made with. As
        long as the blocks in the lock take the same options and ports it is a warning that stops nothing. Where one
        of them differs it is an error; install the locked version, or make the lock again and look at what changed.""",
    ),
    Code(
        "BP652",
        "a block is not as it was locked",
        """A lock holds the interface of each block in it: options with types and defaults, ports, slots and the shape
        notation. The installed block has another one, or is gone, so the network would be another or none. The message
        names the option, slot or port. Install the version that the lock names, or make the lock again.""",
    ),
    Code(
        "BP653",
        "a blueprint has other parameters than its lock",
        """A warning that stops nothing: the blueprint that a lock was made of can be found, and gives a parameter
        another value today, as after an update. The lock builds what was locked. Make it again if the new value is
        wanted.""",
    ),
    Code(
        "BP654",
        "an edge is not of the locked type",
        """Every block looks as it did when the lock was made, but one of them computes another type today: a change
        inside a plugin, or in Composer. The first node in the message is where to look; what comes after it mostly
        follows from it. Install the versions that the lock names, or make the lock again.""",
    ),
    Code(
        "BP655",
        "not a lock that can be read",
        """The key `lock: 1` says that a file is a lock and in which format. Here the format is one that this Composer
        does not read, or a section is missing or holds something else, as in a file that was cut off. Locks are
        written by `composer lock`; make it again, or use the Composer that wrote it.""",
        LOCKED.replace("lock: 1", "lock: 2"),
        LOCKED,
    ),
    Code(
        "BP656",
        "a lock that was changed",
        """A lock holds a hash of each of its sections, and one of them is not what was written: it was edited by hand,
        merged, or cut off. What it says could be neither what was built then nor what is built now. Take the file as
        it was written, or make it again; to change the network, change the blueprint and lock it.""",
        LOCKED.replace("B 3 *S", "B 1 *S"),
        LOCKED,
    ),
    Code(
        "BP657",
        "a lock cannot be changed",
        """Parameters and addresses given to a command beside a lock would make another network than the one that was
        locked, so they are refused. Give them to `composer lock`, which writes a lock of the changed network. It
        depends on the command, not on the file.""",
    ),
)

_WEIGHTS = (
    Code(
        "BP701",
        "a wrong weights rule",
        """A rule under `weights:` says which official key becomes which address: `from` and `to`, and perhaps a
        `transform`. What `to` uses in braces must be read in `from`; several addresses need `transform: split`; a key
        that is not needed has `transform: drop` and no `to`. Rules are checked when weights are converted: `composer
        weights convert`.""",
        _file("head: conv") + 'weights:\n  - {from: "final.{kind}", to: "head.{name}"}\n',
        _file("head: conv") + 'weights:\n  - {from: "final.{name}", to: "head.{name}"}\n',
    ),
    Code(
        "BP702",
        "weights cannot be read",
        """The file given to a command (`composer weights`, `--weights FILE`) is not there, is damaged, is of an
        unknown kind, or is a pickle with more than tensors. Reading such a pickle can run any code, so it is refused
        and nothing of it is run; if you trust its author, save its tensors as .safetensors where the original code is
        installed.""",
    ),
    Code(
        "BP703",
        "weights that do not fit",
        """Names or shapes in the file are not those of the network: it was built with other parameters, or the names
        are those of the official code. Nothing was loaded. Build with the parameters of the checkpoint (`classes=…`, a
        preset), and convert official names with `composer weights convert`.""",
    ),
    Code(
        "BP704",
        "weights cannot be written",
        """The file that `composer weights` should write cannot be made: its folder is missing or may not be written
        to, the disk is full, or the name does not end in .safetensors. Nothing was left behind. Choose another place
        or name.""",
    ),
    Code(
        "BP705",
        "weights without official names",
        """An export to the official names must lose nothing, and here a tensor has no official name, a name has no
        tensor, or a transform cannot be undone (a resized position table has lost rows). The rules under `weights:`
        say both directions; an edited network has parts that the official code does not know, and cannot be
        exported.""",
    ),
    Code(
        "BP706",
        "more memory than there is",
        """Building or running the network would take more memory than the machine, or the GPU, has free, so nothing was
        started: it would end in a crash, or with the whole machine standing still. The message has the figure, the
        worst nodes, and what was tried and fits: a smaller window, a smaller batch, half precision, checkpointing.
        Where an amount was given (`--memory 8GB`, `build(memory="8GB")`), the best plan for it is still too large.
        `--force` (in Python `force=True`) goes on anyway. The variable COMPOSER_MEMORY, such as 8GB, says how much
        memory there is where the machine cannot know; no blueprint can cause it alone.""",
    ),
)

_IMAGES = (
    Code(
        "BP801",
        "an image cannot be read",
        """`composer run` takes NIfTI images and what nibabel reads beside them. The file is not there, is a folder, is
        cut off or is of another format. A DICOM series becomes one image by `dcm2niix -z y FOLDER`.""",
    ),
    Code(
        "BP802",
        "an image of a wrong shape or kind",
        """A network with one input channel takes an image of three axes, one with several takes four axes, channels
        last; each voxel is one real number. Take one volume of a series, stack the sequences of an examination on one
        grid, or turn colours and complex numbers into one value. It depends on the image given to `composer run`.""",
    ),
    Code(
        "BP803",
        "an image with NaN or infinity",
        """One such voxel makes NaN of everything it touches, in a convolution of the whole neighbourhood and in
        attention of the whole image. Replace them, for example by the background, before `composer run`; often they
        come from a resampling outside of the field of view.""",
    ),
    Code(
        "BP804",
        "an empty image",
        """The image given to `composer run` has no voxels, the same number everywhere, or one slice where the network
        looks along several. There is nothing to segment in it. Look at the image and at the scaling in its header, or
        take a 2-D network for a single slice.""",
    ),
    Code(
        "BP805",
        "the network's output is no segmentation",
        """`composer run` puts the results of windows together and needs one map of classes per window: not larger or
        coarser than the window, with one channel per class, and without NaN. Choose the output that is the
        segmentation, add an upsampling at the end, and look at the weights and at the normalization of the image when
        there is NaN.""",
    ),
    Code(
        "BP806",
        "a result cannot be written",
        """The file that `composer run` or `composer export` should write has the wrong ending, its folder is missing or
        may not be written to, or it is the input itself, which would be lost. It is checked before any work is done.
        Choose another name.""",
    ),
    Code(
        "BP807",
        "an image without directions",
        """The header of the image says how its axes lie in the body. Here its matrix is degenerate, so left and right,
        or up and down, cannot be told apart, and the slices that the network was trained on cannot be found. Set voxel
        sizes and orientation in the header.""",
    ),
    Code(
        "BP808",
        "an unknown view or normalization",
        """An option of `composer run` names a viewing direction or a normalization of intensities that there is not. A
        view is axial, coronal or sagittal, or three letters, one of each of L/R, A/P and I/S. The message lists the
        words there are.""",
    ),
    Code(
        "BP809",
        "a network that a format cannot hold",
        """`composer export` traces the network and writes its operations in the terms of another program. Here it met
        one that the format does not have, or a step that depends on the numbers in the image. The message names the
        node; swap it for another block (`composer export unet --onnx FILE up.*.fuse=fuse.add`). An ONNX file keeps
        nothing from call to call, so a network that counts what it saw (`fine`) goes into a torch program alone. What
        was written is run beside the network, and a file that gives something else is not kept. The code also comes
        where a package that the format needs is not installed (`pip install 'blueprint-composer[export]'`), and where
        the exporter of a plugin fails.""",
    ),
    Code(
        "BP810",
        "a part that no Python file can hold",
        """`composer eject` writes what blocks are made of as Python text: their classes as their authors wrote them and
        the calls that make them. Here there is no such text: a class is defined inside of a function, its source is
        not installed, it needs another package than torch, or `build` changes a module after making it. The message
        names the node; swap it, or define what the block makes at the top of its file. `composer export` needs no
        sources.""",
    ),
    Code(
        "BP820",
        "a list of cases that cannot be used",
        """Training reads its images from a list: a `dataset.json` of the Medical Segmentation Decathlon or of nnU-Net,
        a YAML file with `labels` and `cases`, or pairs of files on the command line. Here the list cannot be read,
        names files or cases that there are not, or numbers its classes with a gap. Paths are relative to the list.""",
    ),
    Code(
        "BP821",
        "files of a case that do not belong together",
        """The label map of a case, and every further channel, must lie on the grid of its image: as many voxels, at
        the same places by their affines; and there must be as many channels and classes as the network has. The
        message says by how much they differ. Resample one file onto the grid of the other.""",
    ),
    Code(
        "BP822",
        "a label that is no class",
        """A label map holds whole numbers from 0, the background, to the number of classes less one. The message lists
        the values that are none, and how many voxels have them. Give the network more `classes`, or map the values.""",
    ),
    Code(
        "BP823",
        "nothing to learn from",
        """No image for training shows a class, or none shows any: the network would learn that it never occurs. The
        message counts the voxels of every class. Move a case that shows it into the training part, or leave the class
        out.""",
    ),
    Code(
        "BP824",
        "a patch larger than an image",
        """Training cuts patches out of the images, and an image is smaller than the patch that was asked for. Give a
        smaller `size`; `composer sizes NAME` lists the valid ones. With `--pad` small images are continued by
        reflection.""",
    ),
    Code(
        "BP825",
        "the folder of another run",
        """A run goes on in its folder only with the same blueprint, data and recipe: anything else would be a network
        that nobody can train again. The message lists what differs. Name a new folder with `--out`. It also comes where
        a folder holds other files, or where the checkpoint in it is damaged.""",
    ),
    Code(
        "BP826",
        "a recipe that cannot be followed",
        """A recipe is how a network learns: `source: {training: …}` of the blueprint, and above it what the command
        line says. Here it names something that there is not, or a value out of range, or it needs what the network or
        the installation does not have.""",
    ),
    Code(
        "BP827",
        "a loss that is not finite",
        """The loss became NaN or infinite, and so would all weights after it. What earlier epochs learned is kept. A
        lower learning rate, a longer warm-up, clipped gradients or full precision help.""",
    ),
    Code(
        "BP832",
        "a blueprint that nnU-Net cannot train",
        """nnU-Net feeds one image, and takes a class for every voxel of it: as many axes, channels and classes as the
        configuration of its plans has, on the grid of the patch. Here the blueprint is another kind of network, none is
        named (the environment variable `nnUNet_blueprint`), the plans were made by another planner, or nnU-Net is not
        installed.""",
    ),
    Code(
        "BP833",
        "no patch for nnU-Net",
        """The planner takes the largest patch that is valid for the blueprint and fits, two at a time, into the memory
        of the device. Here no size near the images is valid, or the smallest valid one needs more memory than there is.
        Take a smaller network, or give more memory: `nnUNetv2_plan_experiment … -gpu_memory_target 16`.""",
    ),
    Code(
        "BP834",
        "a network that cannot be shared so",
        """A MONAI bundle runs by MONAI's own windows and evaluator: they feed one image, and take a map as large as
        it. Here the network also takes the place of its window, or gives the centre of the window alone. Pad the
        convolutions, or share it as a folder (`composer export NAME --hub FOLDER`), which holds any network. The code
        also comes where `labels` do not name all classes.""",
    ),
    Code(
        "BP835",
        "no folder of a saved network",
        """A saved network is a folder with `blueprint.yaml`, `model.safetensors` and `config.json`. Here one of them is
        missing or cannot be read, there is no such folder, or it is of a format that this version of Composer does not
        know. Download or save it again; a later format needs a later Composer.""",
    ),
    Code(
        "BP836",
        "a repository of the hub that is not to be had",
        """The network was named as a repository of Hugging Face's hub, `owner/name`, since there is no such folder. The
        hub does not know it, does not give it to you, cannot be reached, or was not asked (`offline=True`) and nothing
        was downloaded before. The message has its own words. It also comes where huggingface_hub is not installed
        (`pip install 'blueprint-composer[hub]'`), and where the hub does not take a network.""",
    ),
    Code(
        "BP841",
        "attention that cannot be shown",
        """A query is asked for that a node does not have, such as a voxel outside the image, or one that was not among
        those asked for; a tapped node has not run; or a rollout is wanted of layers in which not all tokens attend to
        one another. The message says what there is. Voxels count from 0, in the order of the file.""",
    ),
    Code(
        "BP842",
        "no positions to compare",
        """`composer show --position` compares what a network tells its tokens about where they are: rows of a learned
        table, sines and cosines, angles of rotation, biases of relative positions. This network has no such block, or
        none at the address given. Convolutions can learn positions from the zeros that they pad with, and of that there
        is no table.""",
    ),
    Code(
        "BP843",
        "a pretext that a network cannot learn",
        """`composer pretrain --pretext mae` hides most of the patches of an image, so the network must be able to go on
        with the others: its tokens know their positions by a code that is added to them, each sees only its own patch,
        and what follows needs no grid. Networks of windows and of convolutions are not like that. Rotation is a pretext
        for every encoder of images whose shape some rotation keeps.""",
    ),
    Code(
        "BP844",
        "weights of another network that do not fit",
        """`--from` takes the weights that two networks have at the same addresses. Here some of them have another
        shape, or none has a common address. Codes of positions are fitted to another grid; anything else must be alike.
        Give both networks the same parameters, or leave those out with `--leave ADDRESS`.""",
    ),
    Code(
        "BP845",
        "a pretext or an option of it that there is not",
        """The message lists the pretexts and their options. A share of hidden patches lies between 0 and 1; rotations
        are 4 in the plane, and 10 or 24 in space.""",
    ),
)

_OWN = (
    Code(
        "BP846",
        "a space that cannot be searched",
        """A space says what a search chooses from: under `network` parameters and addresses as on the command line,
        under `training` keys of the recipe, each with a list of alternatives or a range. Here a range goes the wrong
        way, a key is unknown or fixed elsewhere, or nothing is left to choose. It also comes where Optuna is not
        installed.""",
    ),
    Code(
        "BP847",
        "a budget that says nothing",
        """A budget limits `flops` of a patch, `memory` of a training step and `parameters`, each as `name<amount`,
        separated by commas. The message underlines the part that cannot be read, and lists the names or units that
        there are.""",
    ),
    Code(
        "BP848",
        "the folder of another study",
        """A search goes on in its folder only with the same blueprint, space, budget, data and recipe: trials of
        different questions cannot be compared. The message lists what differs. Only `--trials` may change. It also
        comes where the folder holds other files, where another process works in it, or where its file is damaged.""",
    ),
    Code(
        "BP849",
        "over the budget",
        """No composition that was drawn can be trained: each was refused by `check`, or takes more than the budget
        allows by the cost model. The message counts the reasons. In the table of a search this code counts the
        compositions that passed `check` and were too expensive.""",
    ),
    Code(
        "BP901",
        "a fault of Composer",
        """Composer itself failed where it should have worked or refused with a message. It is never the user's
        mistake, and no blueprint should be able to cause it. Please report it with the text below the message, the
        blueprint and the command.""",
    ),
)

_GROUPED = (_READING, _NAMES, _OPTIONS, _TYPES, _VALUES, _SIZES, _PLUGINS, _WEIGHTS, _IMAGES, _OWN)
CODES: Mapping[str, Code] = MappingProxyType({code.code: code for group in _GROUPED for code in group})
"""Every code there is, in order."""

__all__ = ["CODES", "GROUPS", "Code"]
