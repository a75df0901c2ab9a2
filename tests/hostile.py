"""A tokenizer whose tokens try to run, and a tiny model over its vocabulary."""

from functools import cache

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from tests import tiny

TEXTS = [
    "<img src=x onerror=window.__hacked=1>",
    "</script><script>window.__hacked=1</script>",
    '"><svg onload=window.__hacked=1>',
    "' onmouseover='window.__hacked=1",
    "</div></td></table><style>*{display:none}</style>",
    "$\\href{javascript:window.__hacked=1}{x}$",
    "&lt;b&gt;&amp;",
    "\\(\\href{https://example.org}{x}\\)",
    "\\[x^2\\]",
    "$$x^2$$",
    "\\begin{matrix}x\\end{matrix}",
    "$5",  # one end of a formula in this token, the other in another one
    "\x1b[31m\x07\u202e\r",
]
PROMPT = (
    "hello <img/src=x/onerror=window.__hacked=1> $x^2$ \\(\\href{https://example.org}{x}\\) "
    "\\[x^2\\] $$x^2$$ \\begin{matrix}x\\end{matrix} costs $5 or $10 world"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Its words are those of the prompt, and hostile texts with a number each."""
    words = [*PROMPT.split(), "<eos>", "<pad>", "<bos>"]
    texts = [f"{TEXTS[i % len(TEXTS)]}{i}" for i in range(tiny.VOCABULARY - len(words))]
    vocabulary = {token: i for i, token in enumerate([*texts, *words])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="hello"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>"
    )


def model():
    return tiny.model("llama")
