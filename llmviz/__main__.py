"""`python -m llmviz "I enjoy walking with my cute dog"`: the next tokens, in a terminal."""

import argparse
import sys


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, in which nothing speaks to the terminal."""

    def error(self, message: str):
        line = " ".join(message.split())
        line = "".join(c if c.isprintable() else f"⟨U+{ord(c):04X}⟩" for c in line)
        self.exit(2, f"{self.prog}: error: {line} (--help lists the arguments)\n")


def main() -> None:
    sys.stdout.reconfigure(errors="replace")  # for a terminal that knows no ␣
    sys.stderr.reconfigure(errors="replace")
    parser = Parser(
        prog="python -m llmviz", description="Show a model's most likely next tokens, step by step."
    )
    parser.add_argument("sentence", help="the text to go on from")
    parser.add_argument("--num-steps", type=int, default=10, help="steps (default: %(default)s)")
    parser.add_argument(
        "--top-k", type=int, default=5, help="tokens per step (default: %(default)s)"
    )
    parser.add_argument("--model", help="a hub id or a folder (default: the course's model)")
    options = parser.parse_args()

    from . import arguments, load, predict_next_tokens

    try:
        arguments.text("sentence", options.sentence)
        arguments.whole("num_steps", options.num_steps)
        arguments.whole("top_k", options.top_k)
        model, tokenizer = load(options.model)
        table = predict_next_tokens(
            model, tokenizer, options.sentence, num_steps=options.num_steps, top_k=options.top_k
        )
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    print(table)


if __name__ == "__main__":
    main()
