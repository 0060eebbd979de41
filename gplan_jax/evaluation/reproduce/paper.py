"""What the paper reports (section 5, tables 1 to 4) and claims, as data.

A claim compares two arms in one measure. "higher" says that the first is better; "same" that it
loses at most ``margin``, which is ours: the paper calls PICD "comparable" to CoT-SFT, and "stable"
what SC-DPO leaves as it is, without saying how much would be a loss. The judge's axes are those of
the rule judge here, on its scale of 1 to 5; the paper's come from a language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gplan_jax.data.tasks.task import Mode
from gplan_jax.evaluation.comparison.planner_arms import PlannerRecipe

TITLES = {
    "acc1": "Acc@1",
    "acc1_tool": "Acc@1, tools",
    "ndcg3_tool": "NDCG@3, tools",
    "ndcg3": "NDCG@3",
    "nes": "NES",
    "flow": "Flow",
    "logic": "Logic",
    "spatiotemporal": "ST",
    "overall": "Overall",
    "latent_valid": "Latent-Valid",
    "exact": "exact answers",
}
BY_TOOLS = ("acc1_tool", "ndcg3_tool")
LABEL, JUDGE = ("acc1", "ndcg3", "nes"), ("flow", "logic", "spatiotemporal", "overall")
MARGINS = {"acc1": 0.02, "ndcg3": 0.02, "nes": 0.02, "overall": 0.1}
MARGINS |= {"latent_valid": 0.02, "exact": 0.02}

RECIPES: Mapping[str, tuple[str, PlannerRecipe]] = {
    "direct_sft": ("Direct-SFT", PlannerRecipe(Mode.DIRECT_SFT, "cosine")),
    "cot_sft": ("CoT-SFT", PlannerRecipe(Mode.COT_SFT, "cosine")),
    "picd_cosine": ("PICD, cosine", PlannerRecipe(Mode.PICD, "cosine")),
    "picd_constant": ("PICD, constant", PlannerRecipe(Mode.PICD, "constant")),
    "picd": ("PICD", PlannerRecipe(Mode.PICD)),
    "picd_dpo": ("PICD + vanilla DPO", PlannerRecipe(Mode.PICD, preference="dpo")),
    "picd_scdpo": ("PICD + SC-DPO", PlannerRecipe(Mode.PICD, preference="scdpo")),
}


@dataclass(frozen=True)
class Claim:
    """``first`` against ``second``: in which measure, and what the paper says of it."""

    first: str
    second: str
    measure: str
    says: Literal["higher", "same"] = "higher"

    def words(self, titles: Mapping[str, str]) -> str:
        relation = "above" if self.says == "higher" else "not below"
        return f"{titles[self.first]} {relation} {titles[self.second]}, {TITLES[self.measure]}"


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    caption: str
    measures: tuple[str, ...]
    figures: Mapping[str, tuple[float, ...]]  # arm -> the paper's, in the order of ``measures``
    claims: tuple[Claim, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms in the table's order."""
        return tuple(self.figures)


BASELINES = {
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "rearec_erl": "ReaRec",
    "p5": "P5",
    "tiger": "TIGER",
}
ARM_TITLES = BASELINES | {arm: title for arm, (title, _) in RECIPES.items()}
PAPER: Mapping[str, PaperTable] = {
    "table1": PaperTable(
        # By tools alone, which is how the paper scores what knows no parameters.
        "Performance beside sequential and generative recommenders (the paper: GPlan-4B)",
        BY_TOOLS,
        {
            "sasrec": (0.361, 0.5865),
            "bert4rec": (0.374, 0.5973),
            "rearec_erl": (0.429, 0.6442),
            "p5": (0.435, 0.6581),
            "tiger": (0.442, 0.6647),
            "picd_scdpo": (0.627, 0.7759),
        },
        tuple(
            Claim("picd_scdpo", baseline, measure) for baseline in BASELINES for measure in BY_TOOLS
        ),
    ),
    "table2": PaperTable(
        "Ablation of post-training strategies (the paper: GPlan-4B)",
        (*LABEL, *JUDGE),
        {
            "direct_sft": (0.612, 0.7591, 0.6210, 3.37, 3.43, 3.49, 3.43),
            "cot_sft": (0.623, 0.7785, 0.6354, 3.53, 3.61, 3.64, 3.60),
            "picd": (0.626, 0.7726, 0.6290, 3.56, 3.62, 3.69, 3.62),
            "picd_scdpo": (0.627, 0.7759, 0.6365, 3.58, 3.59, 3.75, 3.64),
        },
        (
            *(Claim("picd", "cot_sft", measure, "same") for measure in LABEL),
            *(Claim("picd", "cot_sft", measure) for measure in JUDGE[:3]),
            *(Claim("picd", "direct_sft", measure) for measure in (*LABEL, "overall")),
            Claim("picd_scdpo", "picd", "spatiotemporal"),
            *(Claim("picd_scdpo", "picd", m, "same") for m in (*LABEL, "overall")),
        ),
    ),
    "table3": PaperTable(
        "Learning-rate schedules of PICD (the paper: GPlan-4B, one run each)",
        (*LABEL, "latent_valid"),
        {
            "picd_cosine": (0.624, 0.7652, 0.6259, 0.0),
            "picd_constant": (0.621, 0.7575, 0.6216, 1.0),
            "picd": (0.626, 0.7726, 0.6290, 1.0),
        },
        (
            Claim("picd", "picd_cosine", "latent_valid"),
            Claim("picd_constant", "picd_cosine", "latent_valid"),
            Claim("picd", "picd_constant", "latent_valid", "same"),
            *(Claim("picd", "picd_constant", measure) for measure in LABEL),
        ),
    ),
    "table4": PaperTable(
        "Loss of the preference training (the paper: GPlan-4B)",
        (*LABEL, "spatiotemporal", "overall"),
        {
            "picd": (0.626, 0.7726, 0.6290, 3.69, 3.62),
            "picd_dpo": (0.621, 0.7484, 0.6158, 3.60, 3.51),
            "picd_scdpo": (0.627, 0.7759, 0.6365, 3.75, 3.64),
        },
        (
            *(Claim("picd", "picd_dpo", m) for m in (*LABEL, "spatiotemporal", "overall")),
            Claim("picd_scdpo", "picd", "spatiotemporal"),
            *(Claim("picd_scdpo", "picd_dpo", m) for m in (*LABEL, "spatiotemporal", "overall")),
            *(Claim("picd_scdpo", "picd", m, "same") for m in (*LABEL, "overall")),
        ),
    ),
}
