"""DeepSeek-V3 with its modules of multi-token prediction, which transformers leaves out (DeepSeek-AI 2024, section 2.2).

Written from the paper's formulas: module k sees positions 1 … T - k of a sequence, joins each hidden state with the
embedding of the token k places ahead, and predicts the token behind that one. Here modules really run on shorter
sequences, and nothing is filled up.

    L = main loss + PREDICTION_COEF / D * sum of L_k over the D modules

L_k is the sum of the module's cross-entropies over the number of labels that count in the main loss: T per sequence where
all do, as in the paper.
"""

import torch
from torch import nn
from transformers import DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

PREDICTION_COEF = 0.3
IGNORED = -100


class PredictingDeepseekV3(DeepseekV3ForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size

        def norm():
            return DeepseekV3RMSNorm(width, eps=config.rms_norm_eps)

        for k in range(config.num_mtp_layers):
            module = DeepseekV3DecoderLayer(config, config.num_hidden_layers + k)
            module.enorm = norm()
            module.hnorm = norm()
            module.eh_proj = nn.Linear(2 * width, width, bias=False)
            module.shared_head = nn.Module()
            module.shared_head.norm = norm()
            self.model.layers.append(module)  # transformers runs the first num_hidden_layers of them
        self.post_init()

    def predictors(self):
        return self.model.layers[self.config.num_hidden_layers:]

    def watch_hidden(self):
        """Keeps what enters the final norm, which is what the first module continues."""
        def keep(_, args):
            self.last_hidden = args[0]
        self.model.norm.register_forward_pre_hook(keep)

    def prediction_losses(self, tokens, labels, positions, mask):
        """L_k of each module, after a forward pass of these tokens. All [B, T]; mask [B, 1, T, T], additive."""
        document = (positions == 0).cumsum(-1)
        num_valid = (labels != IGNORED).sum()
        hidden = self.last_hidden
        losses = []
        for k, module in enumerate(self.predictors(), start=1):
            length = tokens.shape[1] - k
            ahead = self.model.embed_tokens(tokens[:, k:])
            x = module.eh_proj(torch.cat([module.enorm(ahead), module.hnorm(hidden[:, :length])], dim=-1))
            where = positions[:, :length]
            hidden = module(x, attention_mask=mask[:, :, :length, :length], position_ids=where,
                            position_embeddings=self.model.rotary_emb(x, where))
            logits = self.lm_head(module.shared_head.norm(hidden))
            same = document[:, :length] == document[:, k:]
            wanted = torch.where(same, labels[:, k:], IGNORED)
            losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED,
                                                      reduction="sum") / num_valid)
        return losses
