"""What the columns of observations are called in tables, and with how many digits they are shown."""

SIMILARITIES = {"cos": "cos", "cos_cubed": "cos cubed", "rank_reorder": "rank reorder"}
SIMILARITIES |= {"wpmi": "WPMI", "soft_wpmi": "SoftWPMI", "cos_similarity": "cos"}  # the last in the published files
WAYS = {"clip_dissect": "CLIP-Dissect", "netdissect": "Network Dissection", "random": "labels of other units"}
COSINES = ("cosine", "random_cosine", "judge_cosine", "judge_random_cosine")
HEADINGS = {
    "right": ("right name (%)", ".1f"),
    "top5": ("among five (%)", ".1f"),
    "rank": ("mean rank", ".2f"),
    "true": ("true trait (%)", ".1f"),
    "cosine": ("CLIP cos", ".3f"),
    "random_cosine": ("random", ".3f"),
    "judge_cosine": ("judge cos", ".3f"),
    "judge_random_cosine": ("random, judge", ".3f"),
    "correlation": ("correlation, held out", ".2f"),
    "auprc": ("AUPRC, held out", ".2f"),
    "score": ("score", ".2f"),
    "active": ("active images", ".0f"),
    "sparse": ("sparse (%)", ".1f"),
    "tied": ("top images tied (%)", ".1f"),
    "kept": ("stable (%)", ".1f"),
    "best_iou": ("best IoU", ".3f"),
    "same": ("same as by IoU (%)", ".1f"),
    "same_chance": ("shuffled", ".1f"),
    "part": ("same part (%)", ".1f"),
    "part_chance": ("shuffled, part", ".1f"),
    "agree": ("same with the other probe (%)", ".1f"),
    "shared": ("traits in common", ".2f"),
    "sibling": ("the sibling (%)", ".1f"),
    "same_true": ("the image's class (%)", ".1f"),
    "same_predicted": ("the predicted class (%)", ".1f"),
    "holds": ("trait of the predicted class (%)", ".1f"),
    "n": ("neurons", ".0f"),
    "d_probe": ("probe", ""),  # these three in the published files
    "concept_set": ("concepts", ""),
    "metric": ("measure", ""),
}
NAMES = SIMILARITIES | WAYS | {column: heading for column, (heading, _) in HEADINGS.items()}
NAMES |= {"clip_cos": "CLIP cos", "mpnet_cos": "mpnet cos", "top1_acc_pct": "right name (%)"}  # published


def headings(*columns: str, **others: str) -> dict[str, dict[str, str]]:
    """`columns` and `formats` of `tables.show` for columns of observations; others: further columns' headings."""
    known = {column: HEADINGS.get(column, (column, ".2f")) for column in columns}
    names = {column: heading for column, (heading, _) in known.items()} | others
    return {"columns": names, "formats": {column: spec for column, (_, spec) in known.items()}}
