"""Token ids: those of transformers and mlx-lm, without importing them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import models, pre_tokenizers

from lab.config.schema import ConfigError
from lab.data.errors import SampleError
from lab.data.samples import tokenise
from lab.data.template import ChatTemplate
from lab.data.tokenizer import ByteTokenizer, FolderTokenizer, MlxLmTokenizer, load_tokenizer

TALK = [
    {"role": "user", "content": "What is 12 + 30?", "name": None},
    {"role": "assistant", "content": "42 <b>é</b>", "thinking": "so"},
    {"role": "user", "content": " and\n\n then? "},
    {"role": "assistant", "content": "def f(x):\n    return x"},
]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {"a": ["<é>"]}}}]
SIMPLE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose tokenizer knows a few words, without a chat template."""
    words = ["</s>", "[UNK]", "user", "assistant", "a", "b", "ab"]
    fast = Fast(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens(["</s>"])
    fast.save(str(tmp_path / "tokenizer.json"))
    settings(tmp_path, eos_token={"content": "</s>"})
    return tmp_path


def settings(folder: Path, **values: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


# --- Folders ------------------------------------------------------------------------------------


def test_bytes_without_a_folder():
    tokenizer = load_tokenizer(None)
    assert isinstance(tokenizer, ByteTokenizer)
    assert tokenizer.vocab_size % 32 == 0
    assert tokenizer.encode("é\n") == [0xC3, 0xA9, 10]
    assert tokenizer.encode_chat(TALK) is None


def test_a_folder_without_a_template(folder):
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, FolderTokenizer)
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (0, 7)
    assert tokenizer.encode("a b") == [4, 5]
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]) is None


def test_the_end_token_may_be_named_by_the_model_alone(folder):
    settings(folder)
    (folder / "config.json").write_text('{"eos_token_id": [5, 6]}')
    assert load_tokenizer(folder).eos_id == 5


def test_the_fast_tokenizer_imports_neither_transformers_nor_numpy(folder):
    settings(folder, eos_token="</s>", chat_template=SIMPLE)
    code = (
        "import sys; from pathlib import Path; from lab.data.tokenizer import load_tokenizer; "
        "load_tokenizer(Path(sys.argv[1])).encode_chat([{'role': 'user', 'content': 'a'}]); "
        "heavy = {'transformers', 'numpy', 'mlx_lm'}; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("form", ["text", "list", "file"])
def test_templates_in_every_place(folder, form):
    given = {"text": SIMPLE, "list": [{"name": "default", "template": SIMPLE}], "file": "wrong"}
    settings(folder, eos_token="</s>", chat_template=given[form])
    if form == "file":
        (folder / "chat_template.jinja").write_text(SIMPLE)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]) == [2, 4]


def test_a_token_across_the_border_belongs_to_the_completion(folder):
    sample = {"prompt": "a a", "completion": "b"}
    assert tokenise(sample, "completion", load_tokenizer(folder), True) == ([4, 6, 0], 1)


DAMAGES = {
    "tokenizer.json": ("{", "tokenizer.json cannot be read"),
    "tokenizer_config.json": ("[]", "not a JSON object"),
    "special_tokens_map.json": ("{", "special_tokens_map.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named(folder, name):
    text, said = DAMAGES[name]
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_tokenizer(folder)
    assert (caught.value.key, caught.value.value) == ("model.path", str(folder))


def test_a_folder_without_tokenizer_end_token_or_template_syntax(folder):
    settings(folder, eos_token="</s>", chat_template="{% if %}")
    with pytest.raises(ConfigError, match="chat template cannot be read"):
        load_tokenizer(folder).encode_chat(TALK)
    settings(folder)
    with pytest.raises(ConfigError, match="no end-of-text token"):
        load_tokenizer(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer.json"):
        load_tokenizer(folder)
    with pytest.raises(ConfigError, match="must be a model folder"):
        load_tokenizer(folder / "nowhere")


# --- Templates ----------------------------------------------------------------------------------

TEMPLATES = {
    "blocks": "{% for m in messages %}\n  {% if m.role == 'user' %}\nU: {{ m.content }}\n"
    "  {% else %}\nA: {{ m.content | trim }}{{ eos_token }}\n  {% endif %}\n{% endfor %}",
    "loop": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{{ bos_token + m.content }}{% endfor %}{{ add_generation_prompt }}",
    "tools": "{{ tools | tojson(indent=2) }}{{ messages | tojson }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ dict(a=1) }}{% if documents is none %}none{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}{{ enable_thinking }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.name is defined }}"
    "{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(name):
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": True}
    talk = [{k: v for k, v in message.items() if v is not None} for message in TALK]
    (expected,), _ = render_jinja_template(
        [talk], tools=TOOLS, chat_template=TEMPLATES[name], add_generation_prompt=True, **variables
    )
    template = ChatTemplate(TEMPLATES[name])
    assert template.render(TALK, TOOLS, add_generation_prompt=True, **variables) == expected


def test_a_template_gives_the_same_text_on_every_day():
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}").render([]) == "26 Jul 2024"


REFUSED = {
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{{ messages[0].content + 1 }}": "refuses",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}": "namespace",
    "{{ messages.append(1) }}": "unsafe|not safely callable",
    "{{ range(10**9) | list }}": "Range too big",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_template_that_fails_or_reaches_out_is_refused(text):
    with pytest.raises(SampleError, match=REFUSED[text]):
        ChatTemplate(text).render(TALK)


# --- A real one ---------------------------------------------------------------------------------


@pytest.mark.pretrained
def test_ids_are_those_of_mlx_lm(pretrained):
    ours, theirs = load_tokenizer(pretrained), MlxLmTokenizer(pretrained)
    assert isinstance(ours, FolderTokenizer)
    assert (ours.eos_id, ours.vocab_size) == (theirs.eos_id, theirs.vocab_size)
    texts = [Path(__file__).read_text("utf-8"), " 1234 \t\n\n<|im_end|>é漢🙂", "", "x  = 'don''t'"]
    for text in texts:
        assert ours.encode(text) == theirs.encode(text)
    for chat in (TALK, TALK[:1], TALK[2:3]):
        for prompt in (False, True):
            assert ours.encode_chat(chat, None, prompt) == theirs.encode_chat(chat, None, prompt)


@pytest.mark.pretrained
def test_a_sample_is_the_one_that_mlx_lm_trains_on(pretrained):
    from mlx_lm.tokenizer_utils import load
    from mlx_lm.tuner.datasets import ChatDataset, CompletionsDataset, TextDataset

    ours, theirs = load_tokenizer(pretrained), cast("Any", load(pretrained))
    pair = {"prompt": "def f(x):\n    return x", "completion": "Return x.\n\n    Always."}
    expected = CompletionsDataset([pair], theirs, "prompt", "completion", True).process(pair)
    assert tokenise(pair, "completion", ours, True) == expected
    chat: dict[str, Any] = {"messages": TALK}
    expected = ChatDataset([chat], theirs, mask_prompt=True).process(chat)
    assert tokenise(chat, "chat", ours, True) == expected
    text = {"text": "a text"}
    assert tokenise(text, "text", ours, True) == TextDataset([text], theirs).process(text)
