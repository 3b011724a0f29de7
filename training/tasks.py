# SPDX-License-Identifier: Apache-2.0
"""Questions and answers about a scene, as token ids, for whole batches at once.

A template is one chat turn (question and answer) with fields in braces. `Tasks` turns every template into
a row of token ids in which a field is a negative number, so that filling a batch is one gather.
"""

import torch

import world

COUNTS = ["once", "twice", "three times", "four times"]
MOMENTS = ["start", "middle", "end"]
EVENTS = ["color change", "vanishing", "move"]
DEEDS = ["changed color", "vanished", "moved"]

# Word lists that fields choose from.
WORDS = {"shape": world.SHAPES, "color": list(world.COLORS), "zone": world.ZONES, "count": COUNTS,
         "moment": MOMENTS, "event": EVENTS, "deed": DEEDS, "hue": list(world.HUES), "pattern": world.PATTERNS}

# task -> (wordings of the question, answers). Which answer applies is `answer_variant`'s business.
TASKS = {
    "change": (["Which object changed its color?", "What turned into another color, and where?",
                "Describe the change of color."],
               ["the {color0} {shape0} at the {zone0} turned {color_new}"]),
    "count": (["Which object flashed, and how many times?", "What flashed, and how often?",
               "How many times did an object flash, and which one was it?"],
              ["the {color3} {shape3} at the {zone3} flashed {count}"]),
    "order": (["Which came first, the {event_a} or the {event_b}?",
               "What happened earlier, the {event_a} or the {event_b}?",
               "In which order did the {event_a} and the {event_b} happen?"],
              ["the {color_first} {shape_first} {deed_first} before the {color_last} {shape_last} {deed_last}"]),
    "appear": (["When and where did the {shape_v} appear?", "Where did the {shape_v} show up, and when?",
                "Describe how the {shape_v} appeared."],
               ["the {color_v} {shape_v} appeared at the {zone_v} near the {moment_v}"]),
    "list": (["Which objects appeared only for a short time?", "List the objects that appeared for a moment.",
              "Name the three visitors in their order."],
             ["the {color5} {shape5}, then the {color6} {shape6}, and then the {color7} {shape7}"]),
    "motion": (["Which object moved, and where did it go?", "What moved, from where to where?",
                "Describe the movement in the video."],
               ["the {color2} {shape2} moved from the {zone2} to the {zone8}"]),
    "scene": (["How did the background change?", "What happened to the background?",
               "Describe the two backgrounds."],
              ["the background changed from {hue0} {pattern0} to {hue1} {pattern1}"]),
    "fate": (["What happened to the object at the {zone_r}?", "What became of the object at the {zone_r}?",
              "Which object was at the {zone_r}, and what did it do?"],
             ["the {color_r} {shape_r} turned {color_new}", "the {color_r} {shape_r} vanished",
              "the {color_r} {shape_r} moved to the {zone8}", "the {color_r} {shape_r} flashed {count}",
              "the {color_r} {shape_r} stayed there"]),
}
NAMES = list(TASKS)
SYSTEM = "You are a helpful assistant."
SLOT = 38      # tokens of a question, its answer and what lies between, padded
ANSWER = 20    # tokens of an answer with its end mark, at most
MISSING = -1


def field_values(scene, picks):
    """Name -> (word list, index [B]) of every field a template may use."""
    rows = torch.arange(len(scene), device=scene.shape.device)
    out = {"color_new": ("color", scene.new_color), "count": ("count", scene.flash_count - 1),
           "zone8": ("zone", scene.zone[:, world.TARGET])}
    for role in range(world.ROLES):
        out |= {f"color{role}": ("color", scene.color[:, role]), f"shape{role}": ("shape", scene.shape[:, role]),
                f"zone{role}": ("zone", scene.zone[:, role])}
    for i in range(2):
        out |= {f"hue{i}": ("hue", scene.hue[:, i]), f"pattern{i}": ("pattern", scene.pattern[:, i])}

    # Events and the roles that do them carry the same numbers 0, 1, 2.
    a, b = picks["pair"][:, 0], picks["pair"][:, 1]
    a_first = scene.event_time[rows, a] < scene.event_time[rows, b]
    first, last = torch.where(a_first, a, b), torch.where(a_first, b, a)
    visitor, resident = world.VISITOR + picks["visitor"], picks["resident"]
    for name, role in (("first", first), ("last", last), ("v", visitor), ("r", resident)):
        out |= {f"color_{name}": ("color", scene.color[rows, role]),
                f"shape_{name}": ("shape", scene.shape[rows, role]), f"zone_{name}": ("zone", scene.zone[rows, role])}
    return out | {"event_a": ("event", a), "event_b": ("event", b), "deed_first": ("deed", first),
                  "deed_last": ("deed", last), "moment_v": ("moment", picks["visitor"])}


def sample_picks(n, generator):
    """What each scene's questions ask about: a pair of events, a visitor, a resident, the wordings."""
    def integer(high, *shape):
        return torch.randint(high, (n, *shape), generator=generator, device=generator.device)

    pair = torch.rand(n, 3, generator=generator, device=generator.device).argsort(1)[:, :2]
    return {"pair": pair, "visitor": integer(world.VISITORS), "resident": integer(world.RESIDENTS),
            "wording": integer(3, len(NAMES))}


class Tasks:
    """Templates of all tasks as one table of token ids over a vocabulary."""

    def __init__(self, vocab, device="cpu"):
        self.vocab, self.device = vocab, device
        self.fields, self.rows, self.first_row = {}, [], []
        for wordings, answers in TASKS.values():
            self.first_row.append(len(self.rows))
            self.rows += [self._template(q, a) for a in answers for q in wordings]
        width = max(SLOT, max(len(ids) for ids, _ in self.rows))
        pad = [(ids + [MISSING] * (width - len(ids)), mark + [False] * (width - len(mark))) for ids, mark in self.rows]
        self.table = torch.tensor([ids for ids, _ in pad], device=device)
        self.is_answer = torch.tensor([mark for _, mark in pad], device=device)
        self.first_row = torch.tensor(self.first_row, device=device)
        # Every word takes two places; a word of one token leaves the second one empty.
        self.words = {kind: torch.tensor([(vocab.encode(" " + w) + [MISSING])[:2] for w in words], device=device)
                      for kind, words in WORDS.items()}

    def _template(self, question, answer):
        """Token ids (fields negative) of one chat turn after <|vision_end|>, and which of them are the answer's."""
        turn = [self.vocab.end, *self.vocab.encode("\n"), self.vocab.start, *self.vocab.encode("assistant\n")]
        ask, reply = self._pieces(question), self._pieces(answer) + [self.vocab.end]
        return ask + turn + reply, [False] * (len(ask) + len(turn)) + [True] * len(reply)

    def _pieces(self, text):
        """Encodes the words of a template one by one: the pre-tokeniser cuts at the same places."""
        out = []
        for i, word in enumerate(text.split(" ")):
            lead = "" if i == 0 else " "
            if not word.startswith("{"):
                out += self.vocab.encode(lead + word)
                continue
            name, tail = word[1:].split("}")
            place = self.fields.setdefault(name, len(self.fields))
            out += [-2 - 2 * place, -3 - 2 * place] + (self.vocab.encode(tail) if tail else [])
        return out

    def fill(self, scene, picks):
        """Slots of all tasks: ids [B,8,SLOT] (padded), and which ids are answer tokens [B,8,SLOT]."""
        values = field_values(scene, picks)
        places = torch.cat([self.words[values[name][0]][values[name][1]] for name in self.fields], 1)
        variant = torch.zeros_like(picks["wording"])
        variant[:, NAMES.index("fate")] = picks["resident"]
        row = self.first_row + 3 * variant + picks["wording"]
        ids, mark = self.table[row], self.is_answer[row]                       # [B,8,W]
        index = (-2 - ids).clamp(min=0)
        filled = places.gather(1, index.flatten(1)).view_as(ids)
        ids = torch.where(ids <= -2, filled, ids)
        order = torch.sort((ids == MISSING).int(), dim=-1, stable=True).indices  # empty places go last
        ids, mark = ids.gather(-1, order), mark.gather(-1, order)
        mark = mark & (ids != MISSING)
        return torch.where(ids == MISSING, self.vocab.pad, ids)[..., :SLOT], mark[..., :SLOT]

    def texts(self, ids, mark):
        """Question and answer strings of one slot."""
        ids, mark = ids.tolist(), mark.tolist()
        question = ids[:ids.index(self.vocab.end)]
        answer = [i for i, m in zip(ids, mark) if m and i != self.vocab.end]
        return self.vocab.decode(question), self.vocab.decode(answer)


def corpus():
    """All texts that the templates can produce, roughly: what the tokenizer is trained on."""
    lines = [SYSTEM, "system\nuser\nassistant\n"]
    for wordings, answers in TASKS.values():
        lines += wordings + answers
    for words in WORDS.values():
        lines += [f"the {w} {w}, then {w}" for w in words]
    return [line.replace("{", "").replace("}", "") for line in lines]
