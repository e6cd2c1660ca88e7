"""What the tests of the seam into transformers share: small models of many families, and a state that says much."""

import torch
import transformers

from kblam_engine.attention import KBBlock
from kblam_engine.injection import KBState

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Phi3": {},
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 4},
    "Gemma3Text": {
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "SmolLM3": {"no_rope_layer_interval": 2},
    "Olmo2": {},
    "Granite": {},
    "StableLm": {},
}


def build(family="Llama", **extra):
    torch.manual_seed(0)
    options = {**SMALL, **FAMILIES.get(family, {}), **extra}
    if "layer_types" in options:
        options["layer_types"] = options["layer_types"][: options["num_hidden_layers"]]
    config = getattr(transformers, f"{family}Config")(**options)
    name = family.removesuffix("Text")
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def prompts(rows=2, length=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 96, (rows, length), generator=generator)
    return ids, torch.ones_like(ids)


class Notes(KBState):
    """Knowledge tokens drawn from a seed, one KB per row; logits depend on hidden state and prompt."""

    def __init__(self, model, layers, seeds, size=5):
        config = model.config
        self.layers = frozenset(layers)
        self.watch = frozenset(layers)
        self.hidden, self.weights, self.ids = {}, {}, []
        self.heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.keys, self.values = [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            self.keys.append(torch.randn(self.heads, size, config.hidden_size, generator=generator))
            self.values.append(3 * torch.randn(self.heads, size, width, generator=generator))
        self.rows = torch.arange(len(seeds))

    def on_input_ids(self, input_ids):
        self.ids.append(input_ids)
        if len(input_ids) != len(self.rows):
            self.repeat(len(input_ids) // len(self.rows))

    def observe(self, layer, hidden):
        self.hidden[layer] = hidden

    def observe_weights(self, layer, weights):
        self.weights[layer] = weights

    def extend(self, layer, hidden, prompt_logsumexp):
        keys = torch.stack(self.keys)[self.rows]
        logits = torch.einsum("bqx,bhsx->bhqs", hidden, keys) / hidden.shape[-1] ** 0.5
        return KBBlock(logits + 0.3 * prompt_logsumexp[..., None], torch.stack(self.values)[self.rows])

    def repeat(self, n):
        self.rows = self.rows.repeat_interleave(n)

    def reorder(self, indices):
        self.rows = self.rows[indices]


@torch.no_grad()
def logits(model, ids, mask=None, **kwargs):
    return model(input_ids=ids, attention_mask=mask, **kwargs).logits
