"""`python -m reencoder_pipeline.cli` is `reencoder-cache`."""

from reencoder_pipeline.cli import main

if __name__ == "__main__":
    main()
