"""Everything that touches a running model. Each module is named after what it offers:

- `load`: `load` a model, `describe` it, list what is `available`; `check` is the self-check that it makes
- `heads`: `Head`, `parse_heads`, `all_heads`
- `encode`: prompts to a `Batch` of tokens, spans and answers
- `forward`: logits of a batch, the same with any padding
- `capture`: `each_pattern`, `capture_z`
- `interventions`, `intervene`: `zero`, `mean`, `resample`, `uniform`, `scale`, and the block that applies them
- `steering`, `reweight`, `directions`: `replay`, `add`, `reweight`, `split_softmax`, `act`; `points`: where they act
- `generate`, `decoding`: continue prompts with a cache, clean or changed, in one run or several
- `metrics`, `sweep`: the exact effect of every head
- `turn`: whose turn it is on a model; whatever puts hooks on one does so with `watching`
- `faults`: where a NaN or an infinity begins

Functions are imported from their modules or from `headscope`; importing them here would hide the modules of that name.
"""
