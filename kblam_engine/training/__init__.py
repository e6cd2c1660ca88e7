"""Train an adapter: data (lexicon, inventions, samples), stages (retrieval, evidence, native tokens), recipe."""
