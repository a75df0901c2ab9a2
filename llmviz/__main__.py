"""`python -m llmviz "I enjoy walking with my cute dog"`: the next tokens, in a terminal."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m llmviz", description="Show a model's likeliest next tokens, step by step."
    )
    parser.add_argument("sentence", help="the text to go on from")
    parser.add_argument("--num-steps", type=int, default=10, help="steps (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=5, help="tokens a step (default: %(default)s)")
    parser.add_argument("--model", help="a hub id or a folder (default: the course's model)")
    options = parser.parse_args()

    from . import load, predict_next_tokens

    try:
        model, tokenizer = load(options.model)
        table = predict_next_tokens(
            model, tokenizer, options.sentence, num_steps=options.num_steps, top_k=options.top_k
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(table)


if __name__ == "__main__":
    main()
