"""Fields of a `config.json` that together say several settings: rotary positions and their scaling, windows, layer patterns.

Transformers 5 writes `rope_parameters` and `layer_types`; older files have `rope_theta`, `rope_scaling` and rules for which
layers have a window. Both are read, the former are written.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformer import registry, settings
from transformer.components.positions import NoPositions
from transformer.components.rotary import DynamicNTK, Linear, Llama3, LongRope, NoScaling, Rotary, Yarn
from transformer.config import Config, Model
from transformer.errors import UserError
from transformer.settings import Variations

FULL, SLIDING = "full_attention", "sliding_attention"
BASES = ("rotary_emb_base", "rope_theta")
ROPE_NAMES = ("rope_parameters", *BASES, "rope_scaling", "rope_local_base_freq", "original_max_position_embeddings")
FRACTIONS = ("partial_rotary_factor", "rotary_pct")
NO_ROPE = ("no_rope_layers", "no_rope_layer_interval")
WINDOW_NAMES = ("sliding_window", "layer_types", "use_sliding_window", "max_window_layers")
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
# What one layer may have for itself; everything else is the same in all layers.
OWN = ("model.window", "model.positions", "model.attention_norm")

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class LayerFields:
    """Which fields of a model type hold its rotary positions and the windows of its layers, and what they mean if absent.

    `windows`: of no layer, of all, as `layer_types` says, or of layers from `max_window_layers` on if `use_sliding_window`
    (where some layers have no positions, of these).
    `partial`: the field beside `rope_parameters` that says which fraction of a head is rotated; None: Transformers rotates
    whole heads in this model type, whatever the file says.
    `period`: without `layer_types`, every so many layers there is one without a window; None: as `windows` says.
    """

    longest: int = 2048  # max_position_embeddings, where a file does not say
    base: float = 10000.0
    local_base: float | None = None  # of the layers with a window, where they have one of their own
    fraction: float = 1.0
    partial: str | None = None
    windows: Literal["no", "all", "types", "from"] = "no"
    window: int | None = None  # where a file does not say
    period: int | None = None
    positionless: bool = False  # some layers may have no positions

    @property
    def names(self) -> tuple[str, ...]:
        """Fields that are read here."""
        return (
            "max_position_embeddings",
            *ROPE_NAMES,
            *FRACTIONS,
            *WINDOW_NAMES,
            *PATTERNS,
            *(NO_ROPE if self.positionless else ()),
        )

    # --- in --------------------------------------------------------------------------------------------------------------

    def read(self, raw: Fields, layers: int, where: str) -> dict[str, Any]:
        """Settings by dotted name. UserError: a field that says what is not supported."""
        longest = raw.get("max_position_embeddings", self.longest)
        if not (type(longest) is int and longest >= 1):
            raise UserError(f"{where}: max_position_embeddings is {longest!r}: wants a number of tokens, 1 or more")
        rotary = self._rotated(raw, layers, where)
        each = [
            {"model.window": window} | self._positions(raw, window, rotated, longest, where) | self._own(number)
            for number, (window, rotated) in enumerate(zip(self._windows(raw, rotary, where), rotary, strict=True))
        ]
        period = next(p for p in range(1, layers + 1) if all(each[n] == each[n % p] for n in range(layers)))
        turn = each[:period]
        whole = [own for own in turn if own["model.window"] is None and own["model.positions"] == "rotary"]
        base = whole[-1] if whole else turn[0]
        if period == 1:
            return base
        named = [_name(own) for own in turn]
        types = {name: _differing(own, base) for name, own in zip(named, turn, strict=True)}
        return base | {"model.layer_pattern": tuple(named), "model.layer_types": Variations(types)}

    def _own(self, number: int) -> dict[str, Any]:
        """What else the layer of that number has for itself."""
        return {}

    def _check_own(self, layers: Sequence[Model], name: str) -> None:
        """UserError: the layers have not what `_own` says."""

    def _windows(self, raw: Fields, rotated: Sequence[bool], where: str) -> list[int | None]:
        """Of each layer. `rotated`: which of them have rotary positions."""
        layers = len(rotated)
        window, types = raw.get("sliding_window", self.window), raw.get("layer_types")
        if self.windows == "no" and types is None:
            return [None] * layers
        if self.windows == "from":
            window = window if raw.get("use_sliding_window") else None
            if type(first := raw.get("max_window_layers", 28)) is not int:
                raise UserError(f"{where}: max_window_layers is {first!r}: wants a number of layers")
            local = [not rotated[n] if self.positionless else n >= first for n in range(layers)]
            types = types or [SLIDING if each else FULL for each in local]
        if types is None:
            pattern = next((raw[name] for name in PATTERNS if isinstance(raw.get(name), int)), self.period)
            period = pattern if self.windows == "types" else None
            types = [SLIDING if period is None or (n + 1) % period else FULL for n in range(layers)]
        if not isinstance(types, list) or len(types) != layers or not {*types} <= {FULL, SLIDING}:
            raise UserError(f"{where}: layer_types is {types!r}: wants {FULL} or {SLIDING} for each of {layers} layers")
        if window is not None and not (type(window) is int and window >= 1):
            raise UserError(f"{where}: sliding_window is {window!r}: wants a number of tokens, 1 or more")
        only = {"no": FULL, "all": SLIDING}.get(self.windows)
        if only and window is not None and {*types} != {only}:
            raise UserError(
                f"{where}: layer_types is {types!r}: Transformers does not read it for this model type and has {only} in all "
                "layers; remove it"
            )
        return [window if each == SLIDING else None for each in types]

    def _rotated(self, raw: Fields, layers: int, where: str) -> list[bool]:
        given = raw.get("no_rope_layers") if self.positionless else None
        if given is None:
            every = raw.get("no_rope_layer_interval", 4) if self.positionless else layers + 1
            return [(n + 1) % every != 0 for n in range(layers)]
        if not isinstance(given, list) or len(given) != layers:
            raise UserError(f"{where}: no_rope_layers is {given!r}: wants 0 or 1 for each of {layers} layers")
        return [bool(each) for each in given]

    def _positions(self, raw: Fields, window: int | None, rotated: bool, longest: int, where: str) -> dict[str, Any]:
        if not rotated:
            return {"model.positions": "none"}
        given = raw.get("rope_parameters") or {}
        if {*given} & {FULL, SLIDING}:
            rope = dict(given.get(FULL if window is None else SLIDING) or {})
        elif given:
            rope = dict(given)
        else:
            rope = dict(raw.get("rope_scaling") or {})
            if self.local_base is not None and window is not None:
                rope = {"rope_theta": raw.get("rope_local_base_freq", self.local_base)}
            elif (named := next((name for name in BASES if name in raw), None)) is not None:
                rope = {"rope_theta": raw[named]} | rope
        default = self.base if window is None or self.local_base is None else self.local_base
        fraction = self._fraction(raw, rope, where)
        values = {
            "model.positions": "rotary",
            "model.positions.size": longest,
            "model.positions.base": float(rope.pop("rope_theta", default)),
            "model.positions.fraction": fraction,
        }
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        rope.pop("type", None)
        inner = rope.pop("original_max_position_embeddings", None)
        original = raw.get("original_max_position_embeddings") or inner or longest
        if kind not in SCALINGS:
            raise UserError(f"{where}: rope_type is {kind!r}: only {', '.join(SCALINGS)} are supported")
        scaling, named = SCALINGS[kind]
        prefix = "model.positions.scaling"
        values[prefix] = registry.reference(scaling)
        known = {field.name for field in dataclasses.fields(scaling)}
        if "trained_length" in known:
            values[f"{prefix}.trained_length"] = longest if kind == "dynamic" else original  # as Transformers has it
        if kind in ("longrope", "yarn") and rope.get("factor") is None:
            values[f"{prefix}.factor"] = longest / original
        elif missing := [theirs for theirs in NEEDED.get(kind, ()) if rope.get(theirs) is None]:
            raise UserError(f"{where}: rope_parameters of type {kind} has no {missing[0]}; add it, as the model was published")
        for theirs, value in rope.items():
            if value is None:
                continue
            if (ours := named.get(theirs)) is None:
                raise UserError(f"{where}: {theirs} is {value!r} in rope_parameters of type {kind}: it is not supported")
            values[f"{prefix}.{ours}"] = tuple(map(float, value)) if isinstance(value, list) else _number(value)
        return values

    def _fraction(self, raw: Fields, rope: dict[str, Any], where: str) -> float:
        """Of each head, what is rotated; taken out of `rope`."""
        inner, outer = rope.pop("partial_rotary_factor", None), raw.get(self.partial) if self.partial else None
        stated = next((each for each in (inner, outer) if self.partial and each is not None), self.fraction)
        others = {name: raw.get(name) for name in FRACTIONS if name != self.partial}
        others |= {} if self.partial else {"partial_rotary_factor in rope_parameters": inner}
        for name, value in others.items():
            if value is not None and value != stated:
                raise UserError(
                    f"{where}: {name} is {value!r}: Transformers does not read it for this model type and has {stated} of each "
                    "head rotated; remove it"
                )
        if type(stated) not in (int, float) or not 0 < stated <= 1:
            raise UserError(f"{where}: {self.partial or FRACTIONS[0]} is {stated!r}: wants a number above 0 and up to 1")
        return float(stated)

    # --- out -------------------------------------------------------------------------------------------------------------

    def write(self, config: Config, name: str) -> dict[str, Any]:
        """The fields. UserError: a model of type `name` cannot have these layers."""
        stack = "encoder" if config.family == "encoder_only" else "decoder"
        model, count = config.model, config.model.depth(stack)
        turn = model.layers_of_period(stack)
        layers = [turn[n % len(turn)] for n in range(count)]
        for each in turn:
            _check_alike(turn[0], each, name)
        windows = [each.window for each in layers]
        rotated = [not isinstance(each.positions, NoPositions) for each in layers]
        some = {each for each in windows if each is not None}
        if len(some) > 1:
            raise UserError(f"config.model.layer_types: a {name} model has one window, and these are {sorted(some)}")
        types = [FULL if window is None else SLIDING for window in windows]
        local = self.local_base is not None
        ropes = {kind: self._rope(each, name) for kind, each in zip(types, layers, strict=True) if _rotary(each)}
        if not local and len({str(rope) for rope in ropes.values()}) > 1:
            raise UserError(f"config.model.layer_types: a {name} model has one kind of rotary positions for all layers")
        if not ropes:
            raise UserError(f"config.model.positions none: a {name} model of Transformers has rotary; it cannot be written")
        if not all(rotated) and not self.positionless:
            raise UserError(
                f"config.model.layer_types: each layer of a {name} model has rotary positions; it cannot be written"
            )
        self._check_windows(types, name)
        self._check_own(layers, name)
        window = next(iter(some), None)
        one = next(iter(ropes.values()))
        result: dict[str, Any] = {"max_position_embeddings": next(e.positions.longest() for e in layers if _rotary(e))}
        result["rope_parameters"] = {kind: ropes.get(kind, one) for kind in (FULL, SLIDING)} if local else one
        if not local and "original_max_position_embeddings" in one:
            result["original_max_position_embeddings"] = one["original_max_position_embeddings"]
        if self.windows != "no":
            result["sliding_window"] = window
        if self.windows in ("types", "from"):
            result["layer_types"] = types
        if self.windows == "from":
            result |= {"use_sliding_window": window is not None, "max_window_layers": types.count(FULL)}
        if self.positionless:
            result["no_rope_layers"] = [int(each) for each in rotated]
        return result

    def _check_windows(self, types: Sequence[str], name: str) -> None:
        if self.windows == "no" and SLIDING in types:
            raise UserError(f"config.model.window: a {name} model of Transformers has none; it cannot be written")
        if self.windows == "all" and len({*types}) > 1:
            raise UserError(f"config.model.layer_types: all layers of a {name} model have a window, or none has")

    def _rope(self, model: Model, name: str) -> dict[str, Any]:
        positions = model.positions
        assert isinstance(positions, Rotary)
        if positions.layout != "halves" or positions.frequencies != 1 or positions.size is None:
            raise UserError(f"config.model.positions: a {name} model has layout=halves, frequencies=1 and a size; set these")
        if positions.fraction != 1 and self.partial is None:
            raise UserError(
                f"config.model.positions.fraction is {positions.fraction}: a {name} model of Transformers rotates whole heads, "
                "a fraction of 1; it cannot be written"
            )
        kind = next(kind for kind, (scaling, _) in SCALINGS.items() if type(positions.scaling) is scaling)
        scaling, named = positions.scaling, SCALINGS[kind][1]
        rope: dict[str, Any] = {"rope_type": kind, "rope_theta": positions.base}
        if positions.fraction != 1 or self.fraction != 1:
            rope["partial_rotary_factor"] = positions.fraction
        for theirs, ours in named.items():
            value = getattr(scaling, ours)
            if value is not None:
                rope[theirs] = list(value) if isinstance(value, tuple) else value
        if isinstance(scaling, DynamicNTK):
            if scaling.trained_length != positions.size:
                raise UserError(
                    f"config.model.positions.scaling.trained_length is {scaling.trained_length} and size {positions.size}: a "
                    f"{name} model of Transformers has one number for both with scaling dynamic; it cannot be written"
                )
        elif hasattr(scaling, "trained_length"):
            rope["original_max_position_embeddings"] = scaling.trained_length  # type: ignore[attr-defined]
        return rope


# rope_type -> class of ours, and theirs -> ours for its settings.
SCALINGS: dict[str, tuple[type, dict[str, str]]] = {
    "default": (NoScaling, {}),
    "linear": (Linear, {"factor": "factor"}),
    "dynamic": (DynamicNTK, {"factor": "factor"}),
    "yarn": (
        Yarn,
        {name: name for name in ("factor", "beta_fast", "beta_slow", "truncate", "attention_factor")},
    ),
    "llama3": (
        Llama3,
        {
            "factor": "factor",
            "low_freq_factor": "low_frequency_factor",
            "high_freq_factor": "high_frequency_factor",
        },
    ),
    "longrope": (
        LongRope,
        {
            "short_factor": "short_factors",
            "long_factor": "long_factors",
            "factor": "factor",
            "attention_factor": "attention_factor",
        },
    ),
}

# Of these, what Transformers does not know by itself.
NEEDED = {"linear": ("factor",), "dynamic": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}


def _number(value: Any) -> Any:
    """A factor that a file may write as a whole number."""
    return float(value) if type(value) is int else value


def _rotary(model: Model) -> bool:
    return isinstance(model.positions, Rotary)


def _name(own: Mapping[str, Any]) -> str:
    """What a layer type is called."""
    reach = "global" if own["model.window"] is None else "local"
    reach = reach if own.get("model.attention_norm", True) else f"{reach}_without_norm"
    return reach if own["model.positions"] == "rotary" else f"{reach}_without_positions"


def _differing(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a layer type that are not those of the model, by their names in it."""
    differing = {name: value for name, value in own.items() if base.get(name) != value}
    if "model.positions.scaling" not in differing and any("scaling." in name for name in differing):
        differing = {"model.positions.scaling": own["model.positions.scaling"]} | differing
    return {name.removeprefix("model."): value for name, value in differing.items()}


def _check_alike(first: Model, other: Model, name: str) -> None:
    """UserError: two layer types differ in more than windows and positions."""
    one, two = settings.plain(first), settings.plain(other)
    for setting in one.keys() | two.keys():
        if not f"model.{setting}".startswith(OWN) and one.get(setting) != two.get(setting):
            raise UserError(
                f"config.model.layer_types: {setting} is {one.get(setting)} in one and {two.get(setting)} in another, and a "
                f"{name} model of Transformers has one for all layers; it cannot be written"
            )


@dataclasses.dataclass(frozen=True)
class ModernBertLayers(LayerFields):
    """ModernBERT's: two-sided windows, of `local_attention` tokens; and no norm before the first layer's attention."""

    @property
    def names(self) -> tuple[str, ...]:
        more = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "local_attention")
        return ("max_position_embeddings", "rope_parameters", "rope_scaling", "layer_types", *more)

    def read(self, raw: Fields, layers: int, where: str) -> dict[str, Any]:
        every = raw.get("global_attn_every_n_layers", 3)
        types = raw.get("layer_types") or [SLIDING if n % every else FULL for n in range(layers)]
        fields = {name: raw[name] for name in ("max_position_embeddings", "rope_parameters", "rope_scaling") if name in raw}
        fields |= {"sliding_window": raw.get("local_attention", self.window), "layer_types": types}
        for theirs, ours in (("global_rope_theta", "rope_theta"), ("local_rope_theta", "rope_local_base_freq")):
            fields |= {ours: raw[theirs]} if theirs in raw else {}
        return super().read(fields, layers, where)

    def write(self, config: Config, name: str) -> dict[str, Any]:
        result = super().write(config, name)
        return result | {"local_attention": result.pop("sliding_window") or self.window}

    def _own(self, number: int) -> dict[str, Any]:
        return {"model.attention_norm": number > 0}

    def _check_own(self, layers: Sequence[Model], name: str) -> None:
        if [each.attention_norm for each in layers] != [number > 0 for number in range(len(layers))]:
            raise UserError(f"config.model.attention_norm: in a {name} model the first layer alone has none; set it so")
