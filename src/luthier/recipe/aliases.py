"""Keys of other tools: those that mean one of ours, and those that have no counterpart here.

Names are those of Axolotl, LLaMA-Factory, TRL and transformers, ms-swift, torchtune, LitGPT, Unsloth and MLX-LM.
"""

# other spelling → our field; accepted, and announced as "cutoff_len: read as sequence_len"
ALIASES: dict[str, str] = {
    "model": "base_model",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "model_path": "base_model",
    "base": "base_model",
    "finetuning_type": "adapter",
    "tuner_type": "adapter",
    "train_type": "adapter",
    "lora_rank": "lora_r",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "use_rslora": "rslora",
    "peft_use_rslora": "rslora",
    "use_dora": "dora",
    "lora_target": "lora_targets",
    "lora_target_modules": "lora_targets",
    "target_modules": "lora_targets",
    "dataset": "datasets",
    "train_datasets": "datasets",
    "val_dataset": "val_datasets",
    "eval_dataset": "val_datasets",
    "eval_datasets": "val_datasets",
    "test_datasets": "val_datasets",
    "val_size": "val_set_size",
    "val_split": "val_set_size",
    "val_split_fraction": "val_set_size",
    "validation_split": "val_set_size",
    "split_dataset_ratio": "val_set_size",
    "cutoff_len": "sequence_len",
    "max_seq_length": "sequence_len",
    "max_seq_len": "sequence_len",
    "max_length": "sequence_len",
    "model_max_length": "sequence_len",
    "sequence_length": "sequence_len",
    "seq_len": "sequence_len",
    "chat_template_path": "chat_template",
    "grad_checkpoint": "gradient_checkpointing",
    "optimizer": "optim",
    "optim_type": "optim",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "scheduler": "lr_scheduler",
    "warmup": "warmup_ratio",
    "max_grad_clip": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "num_train_epochs": "num_epochs",
    "epochs": "num_epochs",
    "n_epochs": "num_epochs",
    "eval_every": "eval_steps",
    "steps_per_eval": "eval_steps",
    "save_every": "save_steps",
    "save_total_limit": "keep_checkpoints",
    "random_seed": "seed",
    "torch_dtype": "dtype",
    "output": "output_dir",
}

DATASET_ALIASES: dict[str, str] = {
    "file": "path",
    "data_files": "path",
    "data_path": "path",
    "dataset_path": "path",
    "format": "type",
    "formatting": "type",
}

# (field, other spelling of a value) → the nearest of ours; announced as "optim: adamw_torch read as adamw"
VALUE_ALIASES: dict[tuple[str, str], str] = {
    ("optim", "adamw_torch"): "adamw",
    ("optim", "adamw_torch_fused"): "adamw",
    ("optim", "adamw_hf"): "adamw",
    ("optim", "adamw_apex_fused"): "adamw",
    ("optim", "paged_adamw"): "adamw",
    ("optim", "paged_adamw_32bit"): "adamw",
    ("optim", "adamw_bnb_8bit"): "adamw_8bit",
    ("optim", "adamw_torch_8bit"): "adamw_8bit",
    ("optim", "adamw8bit"): "adamw_8bit",
    ("optim", "paged_adamw_8bit"): "adamw_8bit",
    ("adapter_dtype", "float32"): "fp32",
    ("adapter_dtype", "bfloat16"): "bf16",
}

_BATCH = "the batch is a budget of tokens here: 8 rows of about 512 tokens are batch_tokens: 4096"
_MICRO = f"{_BATCH}; micro_batch_tokens bounds one pass and may stay auto"
_PACKED = "remove the line: rows are always packed without padding and never see each other"
_BITS = "remove the line: adapter: qlora holds the base in 4 bits (NF4), adapter: lora holds it in dtype"
_NF4 = "remove the line: with adapter: qlora the base is always NF4 with double quantisation"
_DTYPE = "write dtype: bf16, fp32 or auto"
_ATTENTION = "remove the line: attention is chosen to fit the device"
_TEMPLATE = "the model's own template is used; for another, write chat_template with the path of a .jinja file"
_LINEARS = "remove the line: all linear layers of the decoder get an adapter, unless lora_targets names some"
_WHOLE = "remove the line: this version trains adapters only, no whole layers"
_OPTIMIZER = "remove the line: AdamW runs with β 0.9 and 0.999, ε 1e-8; learning_rate and weight_decay are settings"
_EVALS = "write eval_steps, the number of steps between two validations"
_REPORT = "remove the line: every run writes events.jsonl, a report and TensorBoard files, all on this machine"
_PUSH = "remove the line: nothing is uploaded; the finished adapter is in the run's folder"
_CODE = "remove the line: code from a model's folder is never run"
_SINGLE = "remove the line: this version trains on one device"
_METHOD = "remove the line: this version does supervised fine-tuning (SFT) and nothing else"
_MASK = "remove the line: the assistant's turns are trained on, everything else is context"
_WORKERS = "remove the line: data is tokenised once and cached"

# key of another tool → what to do instead; refused with this text
FOREIGN: dict[str, str] = {
    "per_device_train_batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "batch_size": _BATCH,
    "global_batch_size": _BATCH,
    "micro_batch_size": _MICRO,
    "gradient_accumulation_steps": _MICRO,
    "per_device_eval_batch_size": "remove the line: validation uses the same token budget as training",
    "eval_batch_size": "remove the line: validation uses the same token budget as training",
    "packing": _PACKED,
    "sample_packing": _PACKED,
    "eval_sample_packing": _PACKED,
    "pad_to_sequence_len": _PACKED,
    "padding_free": _PACKED,
    "neat_packing": _PACKED,
    "group_by_length": _PACKED,
    "load_in_4bit": _BITS,
    "load_in_8bit": _BITS,
    "quantization": _BITS,
    "quantization_bit": _BITS,
    "quant_bits": _BITS,
    "quant_method": _BITS,
    "quantize": _BITS,
    "bnb_4bit_quant_type": _NF4,
    "bnb_4bit_use_double_quant": _NF4,
    "bnb_4bit_quant_storage": _NF4,
    "bnb_config_kwargs": _NF4,
    "double_quantization": _NF4,
    "quantization_type": _NF4,
    "bnb_4bit_compute_dtype": "remove the line: dtype is what products run in, with a base in 4 bits, too",
    "bf16": _DTYPE,
    "fp16": _DTYPE,
    "fp32": _DTYPE,
    "precision": _DTYPE,
    "tf32": "remove the line: dtype is the only setting of number formats",
    "adam_beta1": _OPTIMIZER,
    "adam_beta2": _OPTIMIZER,
    "adam_epsilon": _OPTIMIZER,
    "flash_attention": _ATTENTION,
    "flash_attn": _ATTENTION,
    "attn_implementation": _ATTENTION,
    "attn_impl": _ATTENTION,
    "sdp_attention": _ATTENTION,
    "xformers_attention": _ATTENTION,
    "template": _TEMPLATE,
    "lora_target_linear": _LINEARS,
    "lora_modules_to_save": _WHOLE,
    "modules_to_save": _WHOLE,
    "use_peft": "remove the line: adapter: lora is what is trained",
    "warmup_steps": "write warmup_ratio, a share of all steps: 10 steps of 200 are warmup_ratio: 0.05",
    "evals_per_epoch": _EVALS,
    "eval_strategy": _EVALS,
    "evaluation_strategy": _EVALS,
    "do_train": "remove the line: the command decides what is done",
    "do_eval": "remove the line: validation follows from val_set_size or val_datasets",
    "saves_per_epoch": "write save_steps, the number of steps between two checkpoints",
    "save_strategy": "write save_steps, the number of steps between two checkpoints",
    "save_safetensors": "remove the line: nothing but safetensors is written",
    "load_best_model_at_end": "remove the line: the finished adapter is always that of the best validation",
    "resume_from_checkpoint": "remove the line: `luthier train --resume RUN_FOLDER` goes on with a run",
    "overwrite_output_dir": "remove the line: a finished run is never overwritten; choose another output_dir",
    "logging_steps": "remove the line: every step is recorded",
    "report_to": _REPORT,
    "wandb_project": _REPORT,
    "wandb_entity": _REPORT,
    "run_name": "remove the line: the last part of output_dir is the run's name",
    "push_to_hub": _PUSH,
    "hub_model_id": _PUSH,
    "trust_remote_code": _CODE,
    "deepspeed": _SINGLE,
    "fsdp": _SINGLE,
    "fsdp_config": _SINGLE,
    "stage": _METHOD,
    "rl": _METHOD,
    "task": _METHOD,
    "method": _METHOD,
    "train_on_inputs": _MASK,
    "train_on_prompt": _MASK,
    "assistant_only_loss": _MASK,
    "completion_only_loss": _MASK,
    "roles_to_train": _MASK,
    "mask_prompt": _MASK,
    "dataset_prepared_path": _WORKERS,
    "preprocessing_num_workers": _WORKERS,
    "dataset_num_proc": _WORKERS,
    "dataloader_num_workers": _WORKERS,
    "overwrite_cache": "remove the line: the cache is found by content, so changed data is tokenised again",
    "dataset_dir": "write each file's path under datasets",
    "dataset_name": "write the file's path under datasets; nothing is downloaded during a run",
    "max_samples": "remove the line: the whole file is read; max_steps shortens a trial run",
    "special_tokens": "remove the line: the model's own special tokens are used",
    "tokenizer": "remove the line: the tokenizer is the one in base_model's folder",
    "tokenizer_name": "remove the line: the tokenizer is the one in base_model's folder",
    "tokenizer_type": "remove the line: the tokenizer is the one in base_model's folder",
    "model_type": "remove the line: the architecture is read from base_model's config.json",
}

_STANDARD_KEYS = "remove the line and give the rows the usual keys of their type; auto says which keys it looks for"

DATASET_FOREIGN: dict[str, str] = {
    "split": "remove the line: the whole file is read; list validation files under val_datasets",
    "train_on_split": "remove the line: the whole file is read; list validation files under val_datasets",
    "name": "remove the line: a path is all a data file needs; nothing is downloaded during a run",
    "ds_type": "remove the line: the kind of file is read from its ending",
    "weight": "remove the line: every row is used once an epoch",
    "shards": "remove the line: the whole file is read",
    "chat_template": "write chat_template at the top level of the recipe",
    "roles_to_train": _MASK,
    "train_on_eos": "remove the line: the stop token of every assistant turn is trained on",
    "field": _STANDARD_KEYS,
    "field_messages": _STANDARD_KEYS,
    "message_field_role": _STANDARD_KEYS,
    "message_field_content": _STANDARD_KEYS,
    "message_property_mappings": _STANDARD_KEYS,
    "columns": _STANDARD_KEYS,
    "tags": _STANDARD_KEYS,
}

_LORA_ONLY = "this version trains LoRA: write adapter: lora, or qlora for a base in 4 bits"

# (field, value other tools take) → what to write here
VALUE_ADVICE: dict[tuple[str, str], str] = {
    ("adapter", "dora"): "write adapter: lora, and dora: true beside it",
    ("adapter", "none"): f"{_LORA_ONLY} (training all weights is not offered)",
    ("adapter", "full"): f"{_LORA_ONLY} (training all weights is not offered)",
    ("adapter", "freeze"): f"{_LORA_ONLY} (training single layers is not offered)",
    ("type", "chat_template"): "write messages or sharegpt, whichever the rows are, or auto",
    ("type", "chatml"): "write messages, or auto; the model's own template does the marking up",
    ("type", "openai"): "write messages",
    ("type", "completion"): "write text for plain text, prompt_completion for a prompt and its answer",
    ("dtype", "bfloat16"): "write bf16",
    ("dtype", "float32"): "write fp32",
    ("dtype", "fp16"): "write bf16, which has the range of fp32 and needs no loss scaling",
    ("dtype", "float16"): "write bf16, which has the range of fp32 and needs no loss scaling",
    ("device", "gpu"): "write cuda",
    ("lr_scheduler", "constant_with_warmup"): "write constant; warmup_ratio is its warmup",
    ("lr_scheduler", "warmup_stable_decay"): "write wsd",
}
