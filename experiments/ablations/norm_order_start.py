"""How large are the gradients of the last layer before training, by depth, pre- and post-norm? Xiong et al. 2020, theorem 1.

    python launch.py --mode=ablate --config=experiments/ablations/norm_order_start.py --workdir=runs/norm_order_start

Fifteen seeds, 5 to 40 s a run on one of two cores. With pre-norm, the gradient norm of the decoder's last layer is 0.90, 0.70,
0.51, 0.43, 0.30 at 3, 6, 12, 18, 36 layers, proportional to L^-0.44 (0.41 to 0.56; published -0.5). With post-norm it is 1.9 to
2.1 at every depth. The study cannot tell whether these are equal within 0.4: with 3 layers it is 0.24 less than with 18 (-0.02
to 0.51). The gradient norm of the decoder's first layer is 0.99, 0.30, 0.026, 0.004, 0.000005 with post-norm, and 1.13, 1.11,
0.91, 0.78, 0.71 with pre-norm. So the gradients of the last layer, which the theorem is about, are not too large here, but
hardly any gradient passes through that many post-norm layers to the first one.

With L layers the theorem bounds the gradient norm by O(d sqrt(ln d)) with post-norm and by O(d sqrt(ln d / L)) with pre-norm.
The theorem is about one kernel; measured here are all parameters of the decoder's last layer, and those of the first layer for
comparison. Everything is measured before the single update of a run. The models are those of norm_order.py, at more depths.
"""

from experiments.ablations.norm_order import base
from experiments.shapes import studies
from transformer.studies.study import Claim, Metric, Study

SOURCE = "Xiong et al. 2020, theorem 1 and 3.3"
DEPTHS = (3, 6, 12, 18, 36)
LAYERS = ("decoder/last", "decoder/1", "encoder/1")


def name(order: str, depth: int) -> str:
    return f"{order}, {depth} layers"


def get_study() -> Study:
    pre = tuple(name("pre", depth) for depth in DEPTHS)  # "better" is smaller here, as in a loss
    return Study(
        question="How large are the gradients of the last layer before training, by depth, pre- and post-norm?",
        claims=(
            Claim(
                text="With pre-norm the gradients of the last layer fall with depth as 1/sqrt(L).",
                source=SOURCE,
                kind="exponent",
                arms=pre,
                margin=0.2,
                sizes=tuple(map(float, DEPTHS)),
                exponent=0.5,
            ),
            Claim(
                text="With post-norm they do not depend on the depth.",
                source=SOURCE,
                kind="equal",
                arms=tuple(name("post", depth) for depth in DEPTHS if depth != 18),
                margin=0.4,
            ),
            Claim(
                text="With post-norm they are larger than with pre-norm.",
                source=SOURCE,
                kind="better",
                arms=pre,
            ),
        ),
        base=studies.at_start(base(6), "gradient_norm"),
        arms={
            name(order, depth): {
                "model.norm_order": order,
                "model.num_encoder_layers": str(depth),
                "model.num_decoder_layers": str(depth),
            }
            for order in ("post", "pre")
            for depth in DEPTHS
        },
        metrics=tuple(Metric(f"init/gradient_norm@{layer}", "lower") for layer in LAYERS),
        compare_with=name("post", 18),
        seeds=15,
        checkpoint="last",
        fair=("steps", "tokens"),
    )
