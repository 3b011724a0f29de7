"""The method from the paper's equations, in NumPy float64, as judge of `purekv ask --trace`.

    python tools/reference_method.py TRACE MODEL RESULT.json [--window N]

RESULT.json is what `--json` printed. Each layer's input rows come from the trace; its queries, keys and values
are made anew from the checkpoint's weights, and eq. 2 to 4 of the paper, docs/method.md and the masks of
docs/method.md are computed in the plainest way. Judged are: the rows after each layer (the mask), every score
array, the kept rows (the top rows of the program's own scores, ties to the lower row, and of the reference's,
near-ties aside), the logits of the answer over the kept rows alone, the byte counts, and which files there are.
Exit 1 and one line where something disagrees.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

from reference_model import Model, softmax

FRAME_SCORES = ("frame", "own+frame", "clie+frame")
ARRAYS = ("window", "vnorm", "local", "self", "nov", "score")
QUESTION_ROWS, TEXT_WINDOW = 64, 32


class Disagreement(Exception):
    """The program and the reference differ; one line says where."""


def require(holds, message):
    if not holds:
        raise Disagreement(message)


# ---------------------------------------------------------------------------------------------- prompt
class Table:
    """Clip, frame, grid row and grid column of each prompt row; -1 for text."""

    def __init__(self, segments, rows):
        self.rows, self.question_start = rows, segments["question_start"]
        self.clip, self.frame, self.y, self.x = (np.full(rows, -1) for _ in range(4))
        self.frames = []  # (rows of one frame, its clip, its number in the clip, grid)
        for video in segments["video"]:
            grid, at = (video["grid_h"], video["grid_w"]), video["start"]
            for f in range(video["frames"]):
                span = slice(at, at + grid[0] * grid[1])
                self.clip[span], self.frame[span] = video["clip"], f
                self.y[span], self.x[span] = (part.ravel() for part in np.indices(grid))
                self.frames.append((span, video["clip"], f, grid))
                at = span.stop
        self.text = self.clip < 0
        self.visual = ~self.text

    def mask(self, settings, layer):
        """A function of row numbers: bool [rows, l], what each row sees in a layer (docs/method.md)."""
        name = settings["attention"] if layer >= settings["sparse_from"] else "dense"

        def seen(rows):
            i, j = rows[:, None], np.arange(self.rows)[None, :]
            if name == "dense":
                return j <= i
            f, g = self.frame[rows][:, None], self.frame[None, :]
            same_cell = (self.y[rows][:, None] == self.y) & (self.x[rows][:, None] == self.x)
            spatial = (g == f) | (g == 0)
            temporal = (j == i) | (g == 0) | ((g == f - 1) & same_cell)
            links = {"spatial": spatial, "temporal": temporal, "spatial-temporal": spatial | temporal}
            if name == "local":
                links[name] = i - j <= settings["local_window"]
            if name == "atrous":
                links[name] = (i - j) % settings["atrous_rate"] == 0
            same_clip = self.clip[rows][:, None] == self.clip[None, :]
            text = self.text[rows][:, None] | self.text[None, :]
            return (j <= i) & (text | (same_clip & links[name]))
        return seen


# ---------------------------------------------------------------------------------------------- budget
class Rules:
    """What the knobs mean for one prompt (docs/interfaces.md)."""

    def __init__(self, settings, table, window):
        self.method, self.score, self.clie_layer = settings["method"], settings["score"], settings["clie_layer"]
        self.rows_by, self.heads_by, self.values_by = (settings[k] for k in ("row_reduce", "gqa_reduce", "vnorm"))
        question = min(QUESTION_ROWS, table.rows - table.question_start)
        if self.score in FRAME_SCORES:
            self.rows_by, self.heads_by, self.values_by = "max", "max", "out"
            if not table.visual.any():
                self.score, window = "own", TEXT_WINDOW
        self.frame, self.video = self.score in FRAME_SCORES, settings["budget_base"] == "video"
        base = int(table.visual.sum()) if self.video else table.rows
        self.budget = self.share(str(settings["budget"]), base)
        if self.frame:
            self.window = max(1, question)
            if not self.video:
                self.budget = max(self.budget, int(table.text.sum()) + 1)
            self.compress = base > self.budget
        else:
            asks = settings["preset"] != "purekv-paper" and table.visual.any()
            default = max(1, question) if asks else TEXT_WINDOW
            given = default if window is None else window
            self.window = max(1, min(given, self.budget // 2))
            self.compress = base > self.budget and base > given
        self.compress = self.compress and self.method != "full"
        if self.compress:
            self.place(settings["sinks"], table)

    @staticmethod
    def share(text, base):
        if text.endswith("%"):
            return max(1, math.floor(float(text[:-1]) / 100 * base + 1e-9))
        return int(text)

    def place(self, sinks, table):
        """`forced` [l - w]: rows that stay unranked; `ranked`: how many others do."""
        self.columns = table.rows - self.window
        counted = table.visual if self.video else np.ones(table.rows, bool)
        room = self.budget - int(counted[self.columns:].sum())
        self.forced = np.zeros(self.columns, bool)
        if self.video or self.frame:
            self.forced = table.text[:self.columns].copy()
            room -= int((self.forced & counted[:self.columns]).sum())
        for row in range(min(sinks, self.columns)):
            if room > 0 and not self.forced[row]:
                self.forced[row] = True
                room -= int(counted[row])
        self.ranked = max(0, room)

    def borrows(self, layer):
        return self.score in ("clie", "clie+frame") and layer > self.clie_layer


# ---------------------------------------------------------------------------------------------- scores
def over_group(per_head, model, how):
    """[H, n] -> [Hk, n]."""
    grouped = per_head.reshape(model.kv_heads, model.group, -1)
    return grouped.max(1) if how == "max" else grouped.mean(1)


def window_scores(model, rules, q, k):
    """C of eq. 2: [Hk, l - w]."""
    rows = np.arange(rules.columns, k.shape[1])
    causal = np.arange(k.shape[1])[None, :] <= rows[:, None]
    per_head = []
    for h in range(model.heads):
        p = softmax(model.logits(q[:, rows], k, h), causal)[0][:, :rules.columns]
        per_head.append(p.max(0) if rules.rows_by == "max" else p.sum(0))
    return over_group(np.stack(per_head), model, rules.heads_by)


def frame_terms(model, table, q, k, lse):
    """local and self of docs/method.md: [Hk, l] each."""
    local, whole = np.zeros((2, model.heads, table.rows))
    for h in range(model.heads):
        for span, *_ in table.frames:
            logits = model.logits(q[:, span], k[:, span], h)
            inside = np.tri(len(logits), dtype=bool)
            local[h, span] = softmax(logits, inside)[0].max(0)
            whole[h, span] = np.where(inside, np.exp(logits - lse[h, span][:, None]), 0).max(0)
    return over_group(local, model, "max"), over_group(whole, model, "max")


def novelty(model, table, layer, v):
    """||W_o (v - v of the same cell one frame earlier)||, `out` where there is none: [Hk, l]."""
    change = v.copy()
    for (span, clip, _, grid), (before, other, _, earlier) in zip(table.frames[1:], table.frames):
        if clip == other and grid == earlier:
            change[:, span] -= v[:, before]
    return np.where(table.text, 0, model.out_norm(layer, change))


def share_of(x, candidates):
    """n(x): x over its sum over the candidates, a KV head at a time; 0 where that is 0."""
    x = np.where(candidates, x, 0)
    total = x.sum(-1, keepdims=True)
    return np.divide(x, total, out=np.zeros_like(x), where=total > 0)


def layer_scores(model, table, rules, layer, rows, lent):
    """Every array of a layer, [Hk, l - w], by its name in the trace; rows = (q, k, v, lse)."""
    q, k, v, lse = rows
    arrays = {}
    if rules.score != "frame" and not rules.borrows(layer):
        arrays["window"] = window_scores(model, rules, q, k)
    asked = arrays.get("window", lent)
    if rules.values_by != "off":
        norm = np.linalg.norm(v, axis=-1) if rules.values_by == "l2" else model.out_norm(layer, v)
        arrays["vnorm"] = norm[:, :rules.columns]
    if not rules.frame:
        arrays["score"] = asked * arrays.get("vnorm", 1.0)
        return arrays
    terms = (*frame_terms(model, table, q, k, lse), novelty(model, table, layer, v))
    arrays["local"], arrays["self"], arrays["nov"] = (x[:, :rules.columns] for x in terms)
    candidates, out = table.visual[:rules.columns], arrays["vnorm"]
    shares = [share_of(arrays["self"] * out, candidates), share_of(arrays["local"] * arrays["nov"], candidates)]
    if rules.score != "frame":
        shares.append(share_of(asked * out, candidates))
    arrays["score"] = np.maximum.reduce(shares)
    return arrays


def top_rows(score, count):
    """Higher first, of equals the lower row; ascending."""
    return np.sort(np.lexsort((np.arange(len(score)), -score))[:count])


# ---------------------------------------------------------------------------------------------- judge
class Judge:
    """One trace against the reference."""

    def __init__(self, trace, model_dir, result, window=None):
        self.trace, self.model, self.result = Path(trace), Model(model_dir), result
        self.settings, self.bf16 = result["settings"], result["settings"]["dtype"] == "bf16"
        # Arrays and rows: float32 arithmetic, or keys and values that round to another bfloat16.
        self.array_limit, self.row_limit = (2e-2, 5e-3) if self.bf16 else (1e-4, 1e-5)
        self.positions = self.load("position_ids", np.int32)
        segments = json.loads((self.trace / "segments.json").read_text(encoding="utf-8"))
        self.table = Table(segments, self.positions.shape[1])
        self.rules = Rules(self.settings, self.table, window)
        self.cache = []  # a layer's (k, v, keep list of each head)

    def load(self, name, kind=np.float32):
        array = np.load(self.trace / f"{name}.npy")
        require(array.dtype == kind, f"{name}: is {array.dtype}")
        return array

    def close(self, name, got, expected, limit):
        """Within `limit` of the head's largest value, everywhere."""
        require(got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}")
        finite = np.isfinite(expected)
        require(np.isfinite(got[finite]).all(), f"{name}: holds values that are not finite")
        error = np.abs(np.where(finite, got - np.where(finite, expected, 0), 0))
        most = np.abs(np.where(finite, expected, 0)).max(-1, keepdims=True) if expected.size else 1
        require((error <= limit * most + 1e-30).all(), f"{name}: differs by {(error / (most + 1e-30)).max():.3g}")

    def sets(self, layer, score, expected, keep):
        """Kept rows are the top of the program's scores, and of the reference's but for near-ties."""
        rules = self.rules
        count = rules.ranked + int(rules.forced.sum())
        window = np.arange(rules.columns, self.table.rows)
        for head, row in enumerate(score):
            at = f"layer {layer} head {head}"
            require(np.array_equal(np.isposinf(row), rules.forced), f"{at}: +inf is not where rows stay unranked")
            got = keep[head][keep[head] >= 0]
            require(np.array_equal(got, np.concatenate([top_rows(row, count), window])),
                    f"{at}: kept rows are not the top rows of score_{layer:02}")
            if expected is None:
                continue
            wanted = np.where(rules.forced, np.inf, expected[head])
            differing = np.setxor1d(top_rows(wanted, count), got[:-len(window)])
            if len(differing):
                limit = 2 * self.array_limit * expected[head][~rules.forced].max()
                require(np.ptp(wanted[differing]) <= limit, f"{at}: {len(differing)} kept rows differ")

    def layer(self, layer, lent):
        """Judges one layer; returns C of the layer, or None where it was not computed."""
        hidden = self.load(f"hidden_{layer:02}").astype(np.float64)
        q, k, v = self.model.qkv(layer, hidden, self.positions, self.bf16)
        attended, lse = self.model.attend(q, k, v, self.table.mask(self.settings, layer))
        after = self.load(f"hidden_{layer + 1:02}")
        self.close(f"hidden_{layer + 1:02}", after.ravel(), self.model.finish(layer, hidden, attended).ravel(),
                   self.row_limit)
        keep = self.load(f"keep_{layer:02}", np.int32)
        self.cache.append((k, v, [row[row >= 0] for row in keep]))
        kept = [int((row >= 0).sum()) for row in keep]
        require(self.result["kv"]["rows_kept"][layer] == kept, f"layer {layer}: rows_kept is not what keep lists hold")
        if not self.rules.compress:
            whole = np.tile(np.arange(self.table.rows, dtype=np.int32), (self.model.kv_heads, 1))
            require(np.array_equal(keep, whole), f"layer {layer}: not every row is kept")
            return None
        arrays = {"score": None}
        if self.rules.method != "random":
            arrays = layer_scores(self.model, self.table, self.rules, layer, (q, k, v, lse), lent)
        for name in ARRAYS:
            file = f"{name}_{layer:02}"
            exists = (self.trace / f"{file}.npy").exists()
            require(exists == (name in arrays), f"{file}.npy: {'unexpected' if exists else 'missing'}")
            if arrays.get(name) is not None:
                expected = np.where(self.rules.forced, np.inf, arrays[name]) if name == "score" else arrays[name]
                self.close(file, self.load(file), expected, self.array_limit)
        self.sets(layer, self.load(f"score_{layer:02}"), arrays["score"], keep)
        return arrays.get("window")

    def answer(self):
        """Logits after the prompt, and of each output token over the kept rows and the answer's own."""
        model, logits = self.model, self.load("logits")
        ids = self.load("output_ids", np.int32)
        require(ids.tolist() == self.result["output_ids"], "output_ids: not what the JSON says")
        last = self.load(f"hidden_{model.layers:02}")[-1:].astype(np.float64)
        expected = [model.head(last)[0]]
        own = [[(k[h][rows], v[h][rows]) for h, rows in enumerate(keep)] for k, v, keep in self.cache]
        position = int(self.positions.max()) + 1
        for step, token in enumerate(ids[:-1]):
            hidden = model.embed(token)
            for layer in range(model.layers):
                q, k, v = model.qkv(layer, hidden, np.full((3, 1), position + step), self.bf16)
                own[layer] = [(np.vstack([a, k[h]]), np.vstack([b, v[h]])) for h, (a, b) in enumerate(own[layer])]
                heads = [own[layer][h // model.group] for h in range(model.heads)]
                parts = [softmax(q[h] @ k.T * model.scale, True)[0] @ v for h, (k, v) in enumerate(heads)]
                hidden = model.finish(layer, hidden, np.concatenate(parts, -1))
            expected.append(model.head(hidden)[0])
        # Errors of the rows grow from layer to layer here: nothing is taken from the trace between them.
        self.close("logits", logits, np.stack(expected), 10 * self.row_limit)

    def bytes(self):
        kv, table, model = self.result["kv"], self.table, self.model
        row = 2 * model.head_dim * (2 if self.bf16 else 4)
        require(kv["rows"] == table.rows == self.result["prompt"]["tokens"], "kv.rows is not the prompt's rows")
        require(self.result["prompt"]["video_tokens"] == table.visual.sum(), "video_tokens is not the visual rows")
        require(kv["bytes_full"] == row * table.rows * model.kv_heads * model.layers, "bytes_full")
        require(kv["bytes_kept"] == row * sum(map(sum, kv["rows_kept"])), "bytes_kept")
        scratch = row * table.rows * model.kv_heads
        ahead = row * 32 * model.kv_heads * model.layers
        require(kv["bytes_kept"] <= kv["bytes_peak"] <= kv["bytes_kept"] + scratch + ahead, "bytes_peak")

    def files(self):
        """Nothing is there but what docs/interfaces.md names, of layers that the model has."""
        layers = {f"{name}_{i:02}.npy" for name in (*ARRAYS, "keep") for i in range(self.model.layers)}
        layers |= {f"hidden_{i:02}.npy" for i in range(self.model.layers + 1)}
        whole = ("prompt_ids", "position_ids", "pixel_values", "grid_thw", "vision", "logits", "output_ids")
        known = layers | {f"{name}.npy" for name in whole} | {"segments.json"}
        found = {path.name for path in self.trace.iterdir()}
        require(found <= known, f"unknown files: {sorted(found - known)}")
        scores = [name for name in found if name.split("_")[0] in ARRAYS]
        require(self.rules.compress or not scores, f"score files though nothing is compressed: {sorted(scores)}")

    def run(self):
        """Raises Disagreement; returns the layers judged."""
        rules, settings = self.rules, self.settings
        require(settings["budget_rows"] == rules.budget, f"B is {settings['budget_rows']}, expected {rules.budget}")
        require(settings["window"] == rules.window, f"w is {settings['window']}, expected {rules.window}")
        self.files()
        lent = None
        for layer in range(self.model.layers):
            window = self.layer(layer, lent)
            if layer == rules.clie_layer:
                lent = window
        self.answer()
        self.bytes()
        return self.model.layers


def judge(trace, model_dir, result, window=None):
    """Judges a trace; `window` is `--window` as given, None where it was not."""
    return Judge(trace, model_dir, result, window).run()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("model")
    parser.add_argument("result", help="what `purekv ask --json` printed")
    parser.add_argument("--window", type=int, help="as it was given to `purekv ask`")
    args = parser.parse_args()
    result = json.loads(Path(args.result).read_text(encoding="utf-8"))
    try:
        print(f"{judge(args.trace, args.model, result, args.window)} layers agree")
    except Disagreement as error:
        sys.exit(f"disagreement: {error}")


if __name__ == "__main__":
    main()
