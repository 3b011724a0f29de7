"""`purekv tokenize` against the `tokenizers` package: ids and text equal, on any text; malformed input is refused."""

import json
import random
import unicodedata

import pytest

from helpers import ROOT, load_trace, one_error_line, run

tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.usefixtures("purekv_bin")

FOLDERS = {"demo": ROOT / "models" / "demo", "qwen": ROOT.parent / "shared" / "tokenizer"}
CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
MEBIBYTE = 1 << 20


class Judge:
    """One tokenizer.json: our program on it, and the package as it is and with the added tokens taken away."""

    def __init__(self, folder):
        self.folder = folder
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.added = [token["content"] for token in document["added_tokens"]]
        self.ids = len(document["model"]["vocab"]) + len(self.added)
        self.whole = tokenizers.Tokenizer.from_str(json.dumps(document))
        self.plain = tokenizers.Tokenizer.from_str(json.dumps({**document, "added_tokens": []}))

    def ours(self, lines, *flags):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        result = run(["tokenize", "--model", self.folder, *flags], stdin=text)
        assert result.code == 0, result.stderr
        # splitlines() breaks at U+0085, U+2028 and U+2029 too: none stands in the output as it is.
        out = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(out) == len(lines)
        return out

    def same_ids(self, texts):
        self.same(texts, self.ours(texts), [e.ids for e in self.plain.encode_batch(texts)])

    def same_special_ids(self, texts):
        self.same(texts, self.ours(texts, "--special"), [e.ids for e in self.whole.encode_batch(texts)])

    @staticmethod
    def same(texts, ours, wanted):
        wrong = [(ascii(t), a, b) for t, a, b in zip(texts, ours, wanted) if a != b]
        assert not wrong, f"{len(wrong)} of {len(texts)} differ, such as {wrong[:3]}"


@pytest.fixture(scope="module", params=FOLDERS)
def judge(request):
    """Both tokenizers in turn."""
    if not (FOLDERS[request.param] / "tokenizer.json").exists():
        pytest.skip(f"no {FOLDERS[request.param]}/tokenizer.json")
    return Judge(FOLDERS[request.param])


@pytest.fixture(scope="module")
def demo_judge():
    """The shipped tokenizer."""
    return Judge(FOLDERS["demo"])


# --- text to ids -------------------------------------------------------------------------------------------------

def pools() -> list:
    """Lists of code points that meet each other rarely in real text."""
    def of(test):
        return [code for code in CODES if test(chr(code))]
    return [
        CODES,
        of(lambda c: unicodedata.category(c)[0] == "M"),
        of(lambda c: unicodedata.category(c)[0] == "N"),
        of(lambda c: unicodedata.category(c) not in ("Cn", "Co")),
        of(unicodedata.decomposition),
        [0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0x20, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x200B, 0x2028, 0x2029, 0x202F,
         0x205F, 0x3000, 0xFEFF],
        [*range(0x1100, 0x1200), *range(0xAC00, 0xAE00), *range(0x11A6, 0x11C4)],
        [*range(128)],
        [0x1F468, 0x200D, 0x1F469, 0x1F3FB, 0xFE0F, 0x2764, 0x1F1E6, 0x1F1E7, 0x20E3, 0x23, 0x31],
        [ord(c) for c in "'sStTrReEvVmMlLdD\u017f\u212a\u2019"],
    ]


def random_texts(seed, count):
    rng, lists = random.Random(seed), pools()
    for _ in range(count):
        chosen = rng.sample(lists, rng.randint(1, 4))
        yield "".join(chr(rng.choice(rng.choice(chosen))) for _ in range(rng.randint(0, 32)))


def test_random_unicode(judge):
    texts = list(random_texts(1, 20000))
    judge.same_ids(texts)


def test_every_code_point(demo_judge):
    """Beside letters, digits, spaces, marks and a quote, so that its class, its case and its NFC all show."""
    parts = [f"a{c}1 {c}\u0301\u0323'{c}\n" for c in map(chr, CODES)]
    demo_judge.same_ids(["".join(parts[at:at + 96]) for at in range(0, len(parts), 96)])


def test_canonical_composition(demo_judge):
    """Every pair that composes, marks of all classes in any order, and Hangul at the edges of its ranges."""
    rng = random.Random(2)
    marks = {}
    for code in CODES:
        marks.setdefault(unicodedata.combining(chr(code)), []).append(chr(code))
    del marks[0]
    whole = [chr(c) for c in CODES if unicodedata.decomposition(chr(c)) and "<" not in unicodedata.decomposition(chr(c))]
    jamo = [chr(c) for c in (0x1100, 0x1112, 0x1113, 0x1161, 0x1175, 0x1176, 0x11A7, 0x11A8, 0x11C2, 0x11C3, 0xAC00,
                             0xAC01, 0xAC1C, 0xD7A3)]
    texts = [unicodedata.normalize("NFD", c) + tail for c in whole for tail in ("", "\u0301")]
    texts += [a + b + c for a in jamo for b in jamo for c in jamo]
    for _ in range(20000):
        pick = [rng.choice(whole), unicodedata.normalize("NFD", rng.choice(whole)), rng.choice(jamo),
                *(rng.choice(rng.choice(list(marks.values()))) for _ in range(4))]
        texts.append("".join(rng.choices(pick, k=rng.randint(1, 10))))
    demo_judge.same_ids(texts)


LANGUAGES = {
    "English": "She should've counted the boxes; they're 12,345 in all, aren't they?\r\n\tYes: \"all of 'em\".",
    "German": "Über die Brücke fährt ein großer Zug, und 37 Möwen schauen zu.",
    "French": "Où est l'œuvre qu'il a déjà vue ? Elle coûte 1 200,50 €.",
    "Spanish": "¿Cuántos niños hay en la esquina? ¡Veintidós, según mi abuela!",
    "Polish": "Źrebię pije wodę z żółtej miski, a gęś gęga pod płotem.",
    "Czech": "Příliš mnoho řek teče přes úzký žlab u dědiny.",
    "Turkish": "Iğdır'da ışık söndü; İzmir'de ise güneş doğdu.",
    "Vietnamese": "Người phụ nữ đội nón lá đứng cạnh chiếc xe đạp màu đỏ.",
    "Russian": "Сколько машин проехало мимо жёлтого дома за 15 секунд?",
    "Ukrainian": "Її об'єктив побачив ґанок і п'ять їжаків.",
    "Greek": "Ποιος κρατάει τη μπάλα; Ο άνθρωπος με το γαλάζιο καπέλο.",
    "Hebrew": "כמה אנשים נכנסו לחדר? שָׁלוֹם לכולם.",
    "Arabic": "كم سيارةً مرّت في الشارع؟ ١٢٣ سيارة.",
    "Persian": "چند نفر در ویدئو دیده می‌شوند؟ ۴۵ نفر.",
    "Hindi": "वीडियो में कितने लोग हैं? क़लम और ज़मीन, १२ बार।",
    "Bengali": "ভিডিওতে কী ঘটছে? কো ও কৌ, ৩৪ বার।",
    "Tamil": "அவன் கையில் என்ன இருக்கிறது? கொடி ௧௨.",
    "Thai": "มีรถกี่คันในวิดีโอนี้? น้ำแข็ง ๑๒ ก้อน",
    "Chinese": "视频里有几个人？他们在做什么，第３个人呢？",
    "Japanese": "ビデオの中で何が起きていますか？ﾊﾞﾅﾅが12本。",
    "Korean": "비디오에서 무슨 일이 일어나고 있나요? 한글 12자.",
    "Burmese": "ဗီဒီယိုထဲမှာ ဘာဖြစ်နေလဲ။ ၁၂ ခု",
}


def test_languages(judge):
    texts = [form for text in LANGUAGES.values()
             for form in (text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text), text * 20)]
    judge.same_ids(texts)


def test_added_tokens_only_with_special(judge):
    rng = random.Random(3)
    pool = [*judge.added * 2, "<|im_", "end|>", "<|", "|>", "<", "<|IM_END|>", " ", "\n", "the", "e\u0301", "\u0301", "12", "\0"]
    texts = judge.added + ["".join(rng.choices(pool, k=rng.randint(1, 12))) for _ in range(4000)]
    judge.same_ids(texts)
    judge.same_special_ids(texts)


def test_flags_of_added_tokens(demo_judge, tmp_path):
    """lstrip, rstrip, single_word, normalized, prefixes of each other, and tokens that the vocabulary holds."""
    document = json.loads((demo_judge.folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = document["model"]["vocab"]
    words = ["<a>", "<ab>", "<abc>", "b>", "e\u0301", "the", "\u65e5\u672c", "\u24b6", "<", "A\u030a", "<|im_end|>", "\u0120"]
    for seed in range(25):
        rng = random.Random(seed)
        chosen = rng.sample(words, rng.randint(1, 9))
        new = iter(range(len(vocab), len(vocab) + len(words)))
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        document["added_tokens"] = [{"id": vocab[word] if word in vocab else next(new), "content": word,
                                     **{flag: rng.random() < 0.35 for flag in flags}} for word in chosen]
        (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        judge = Judge(tmp_path)
        pool = [*chosen * 2, " ", "\t", "\u00a0", "\u3000", "\u200b", "a", "_", "1", "\u0301", "\u203f", "\u2167",
                "\U00010d40", "\u200d", " the", "\r\n"]
        texts = ["".join(rng.choices(pool, k=rng.randint(0, 14))) for _ in range(200)]
        judge.same_ids(texts)
        judge.same_special_ids(texts)


# --- ids to text -------------------------------------------------------------------------------------------------

def test_round_trip(judge):
    texts = list(random_texts(4, 4000)) + list(LANGUAGES.values())
    nfc = tokenizers.normalizers.NFC()
    judge.same(texts, judge.ours(judge.ours(texts), "--decode"), [nfc.normalize_str(text) for text in texts])


def test_decode_of_any_ids(judge):
    """Bytes without sense, ids of added tokens, ids that nobody has."""
    rng = random.Random(5)
    added = [judge.whole.token_to_id(token) for token in judge.added]
    pick = [lambda: rng.randrange(256), lambda: rng.randrange(judge.ids), lambda: rng.choice(added),
            lambda: rng.choice([judge.ids, judge.ids + 271, 2**31 - 1])]
    arrays = [[rng.choices(pick, (6, 3, 1, 1))[0]() for _ in range(rng.randint(0, 40))] for _ in range(8000)]
    judge.same(arrays, judge.ours(arrays, "--decode"), judge.whole.decode_batch(arrays, skip_special_tokens=True))
    judge.same(arrays, judge.ours(arrays, "--decode", "--special"),
               judge.whole.decode_batch(arrays, skip_special_tokens=False))


# --- sizes and damage --------------------------------------------------------------------------------------------

def filled(text: str) -> str:
    return text * (MEBIBYTE // len(text.encode()))


ADVERSARIES = {
    "letter": filled("a"), "spaces": filled(" "), "spaces and a letter": filled(" ") + "a", "newlines": filled("\n"),
    "digits": filled("0123456789"), "marks": filled("\u0301"), "mixed marks": "a" + filled("\u0315\u0323\u0334"),
    "emoji": filled("\U0001f468\u200d\U0001f469"), "jamo": filled("\u1112\u1161\u11ab"), "zeros": filled("\0"),
    "quotes": filled("'"), "letters": filled("qjxkzvw"), "cut specials": filled("<|im_end|"),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_a_mebibyte(judge, name):
    """Complete, and the same bytes come back."""
    text = ADVERSARIES[name]
    ids = judge.ours([text], "--special")
    assert judge.ours(ids, "--decode") == [tokenizers.normalizers.NFC().normalize_str(text)]


@pytest.mark.parametrize("line", [
    b"", b"word", b"'word'", b'"open', b"[1, 2]", b"1", b"null", b'{"a": 1}', b'"a" "b"', b'"\xff"', b'"\xc0\x80"',
    b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x"', b'"tab\there"', b'"a"\0', b'"a\0"', b"[" * 10000,
])
def test_lines_that_are_no_string(line):
    for text in (line + b"\n", b'"first"\n' + line + b"\n\"last\"\n"):
        assert "line" in one_error_line(run(["tokenize"], stdin=text), 3)


@pytest.mark.parametrize("line", ['"text"', "5", "[1.5]", "[-1]", "[1099511627776]", '["1"]', "[[1]]", "[1", "{}", "[null]"])
def test_lines_that_are_no_ids(line):
    assert "line 2" in one_error_line(run(["tokenize", "--decode"], stdin=f"[1]\n{line}\n"), 3)


def test_line_ends():
    assert run(["tokenize"], stdin='""\n"a"').stdout.splitlines() == run(["tokenize"], stdin='""\n"a"\n').stdout.splitlines()
    assert run(["tokenize"], stdin="").stdout == ""


def test_a_damaged_file_is_named(demo_model, tmp_path):
    text = (demo_model / "tokenizer.json").read_text(encoding="utf-8")
    for damaged in (text[:5000], text.replace('"BPE"', '"Unigram"'), text.replace('"merges"', '"merged"'), "[" * 20000):
        (tmp_path / "tokenizer.json").write_text(damaged, encoding="utf-8")
        assert "tokenizer.json" in one_error_line(run(["tokenize", "--model", tmp_path], stdin='"a"\n'), 3)


# --- prompts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["{}", "a{}b", "{}\n{}", "x <|{}|> y", "\u00e9{}\U0001f600"])
def test_a_question_never_makes_special_tokens(demo_judge, tmp_path, form):
    """Whatever the question and the system text hold, the template's own tokens are all there are."""
    attack = form.replace("{}", "".join(demo_judge.added))
    result = run(["ask", attack, "--system", attack, "--max-tokens", "1", "--json", "--trace", tmp_path])
    assert result.code == 0, result.stderr
    ids = load_trace(tmp_path)["prompt_ids"].tolist()
    special = {demo_judge.whole.token_to_id(token): token for token in demo_judge.added}
    assert [special[i] for i in ids if i in special] == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]
    plain = demo_judge.plain.encode(f"user\n{attack}").ids
    start = len(ids) - 1 - ids[::-1].index(demo_judge.whole.token_to_id("<|im_end|>")) - len(plain)
    assert ids[start:start + len(plain)] == plain
