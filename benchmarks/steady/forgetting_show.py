"""The table and the drawing of forgetting.py."""

from typing import Any

import numpy as np

PAIRS = {  # which texts are general: two arms, without and with replay
    "Dolly": ("no replay", "5 % replay"),
    "Dolly, 10 %": ("no replay", "10 % replay"),
    "the base's own texts": ("own texts, no replay", "own texts, 5 % replay"),
}
PANELS = ("Dolly", "the base's own texts")
COLOURS = {  # of the arms that are drawn; where held-out rows are mixed up, too, their loss is another
    "no replay": "#c0392b", "5 % replay": "#2471a3", "10 % replay": "#17a589", "own texts, no replay": "#c0392b",
    "own texts, 5 % replay": "#2471a3", "shuffled": "#7d3c98",
}  # fmt: skip
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 400, 56, 12, 60, 48


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What replay keeps and costs, seed by seed and in all, and what became of the watched runs."""
    replay = {
        general: compared_arms(runs, *pair)
        for general, pair in PAIRS.items()
        if all(any(run["arm"] == arm for run in runs) for arm in pair)
    }
    watched = [
        {
            "seed": run["seed"],
            "arm": run["arm"],
            "status": run["status"],
            "verdicts": [point["verdict"] for point in run["points"]],
            "general_changes": [round(point["general_change"], 3) for point in run["points"]],
            "right": [run["points"][0]["right_base"], *(point["right"] for point in run["points"])],
            "prompts": [round(value, 3) for value in prompts(run)],
            "actions": [f"step {action['step']}: {action['what']}" for action in run["actions"]],
            "steps": f"{run['steps']} of {run['of_steps']}",
        }
        for run in runs
        if run["acts"]
    ]
    return {"replay": replay, "watched": watched}


def prompts(run: dict[str, Any]) -> list[float]:
    """What prompts told the base, and the tuned model at each evaluation, nats a token."""
    return [run["points"][0]["prompts_base"], *(point["prompts_now"] for point in run["points"])]


def compared_arms(runs: list[dict[str, Any]], without: str, with_replay: str) -> dict[str, Any]:
    """Two arms, seed by seed; `share_kept` of all is of the summed rises, a ratio of means and not a mean of ratios."""
    seeds = []
    for seed in sorted({run["seed"] for run in runs}):
        ends = {run["arm"]: run["points"][-1] for run in runs if run["seed"] == seed}
        if {without, with_replay} <= ends.keys():
            one, other = ends[without], ends[with_replay]
            seeds.append(
                {
                    "seed": seed,
                    "rise_without": one["general_change"],
                    "rise_with": other["general_change"],
                    "target_without": one["target_loss"],
                    "target_with": other["target_loss"],
                    "target_cost": other["target_loss"] / one["target_loss"] - 1,
                    "right": [one["right_base"], one["right"], other["right"]],
                }
            )
    mean = {name: float(np.mean([seed[name] for seed in seeds])) for name in ("rise_without", "rise_with")}
    kept, cost = 1 - mean["rise_with"] / mean["rise_without"], float(np.mean([s["target_cost"] for s in seeds]))
    goal = {"share_kept": 0.5, "target_cost": 0.05, "met": kept >= 0.5 and cost <= 0.05}
    return {"seeds": seeds, **mean, "share_kept": kept, "target_cost": cost, "goal": goal}


def draw(runs: list[dict[str, Any]]) -> str:
    """A panel for each kind of general texts."""
    panels = [
        f'<g transform="translate({number * WIDTH} 0)">{panel(general, own)}</g>'
        for number, general in enumerate(PANELS)
        if (own := [run for run in runs if run["general"] == general and run["arm"] in COLOURS])
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(PANELS)} {HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(panels)
        + "</svg>\n"
    )


def panel(general: str, runs: list[dict[str, Any]]) -> str:
    """General loss over target loss, a line from the start of each run: down is learned, right is forgotten."""
    lines = [
        (run["arm"], [(0.0, run["points"][0]["target_start"])]
         + [(point["general_change"], point["target_loss"]) for point in run["points"]])
        for run in runs
    ]  # fmt: skip
    xs, ys = zip(*[point for _, line in lines for point in line], strict=True)
    low_x, high_x = min(*xs, 0) - 0.02 * max(xs), 1.06 * max(xs)
    low_y, high_y = min(ys) - 0.03, max(ys) + 0.03

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high_y - y) / (high_y - low_y) * (HEIGHT - BOTTOM - TOP)

    def label(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#222") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{fill}">{text}</text>'

    counted = "counted from a model that has learned them" if general == "Dolly" else "counted from the base"
    out = [label(LEFT, 16, f"general texts: {general}, {counted}")]
    for tick in np.linspace(0, high_x, 6)[:-1]:
        out.append(label(place(float(tick), low_y)[0], HEIGHT - BOTTOM + 18, f"{tick:+.2f}", anchor="middle"))
    for tick in np.linspace(low_y, high_y, 6):
        y = place(low_x, float(tick))[1]
        out.append(label(LEFT - 6, y + 4, f"{tick:.2f}", anchor="end"))
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>')
    budget = max(run["budget"] for run in runs)
    if budget < high_x:
        x = place(budget, low_y)[0]
        out.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#999" stroke-dasharray="4 3"/>')
        out.append(label(x - 4, TOP + 12, f"allowed: {budget:.2f}", anchor="end", fill="#666"))
    for arm, line in lines:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[arm]}" stroke-width="1.5"/>')
        out += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[arm]}"/>'
            for x, y in (place(*point) for point in line)
        ]
    for number, arm in enumerate(dict.fromkeys(arm for arm, _ in lines)):
        out.append(label(LEFT + 140 * number, 34, arm, fill=COLOURS[arm]))
    out.append(label(WIDTH / 2, HEIGHT - 10, "rise of the general loss, nats a token", anchor="middle"))
    out.append(label(LEFT, TOP - 8, "loss on held-out maths, nats a token", fill="#666"))
    return "\n".join(out)
