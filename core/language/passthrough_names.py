"""The names that the pass-through sections know: their types, older names, and names that no library takes any more.

The lists follow transformers' TrainingArguments and GenerationConfig, TRL's configs and vLLM's engine arguments. A name that is absent is
no error here: the worker checks it against the installed library. A test holds the lists against the libraries where those are installed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["int", "float", "bool", "text", "any"]


class SectionNames(NamedTuple):
    """What one section knows: the kind of each present name, older names with their present one, and names that have no effect."""

    kinds: dict[str, Kind]
    aliases: dict[str, str]
    dead: frozenset[str]


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _kinds(**names: str) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for kind, words in names.items():
        kinds |= dict.fromkeys(words.split(), kind)  # type: ignore[arg-type]
    return kinds


TRAINING = SectionNames(
    _kinds(
        int="""data_seed dataloader_num_workers dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout
            eval_accumulation_steps generation_batch_size gradient_accumulation_steps local_rank max_completion_length max_length max_steps
            max_tool_calling_iterations num_completions_to_print num_generations num_generations_eval num_iterations
            per_device_eval_batch_size per_device_train_batch_size precompute_ref_batch_size ref_model_sync_steps save_total_limit seed
            steps_per_generation top_k torch_empty_cache_steps vllm_max_model_length vllm_server_port vllm_tensor_parallel_size
            ppo_epochs mini_batch_size max_new_tokens auto_deepspeed_stage zero_stage nproc_per_node early_stopping_patience""",
        float="""adam_beta1 adam_beta2 adam_epsilon beta center_rewards_coefficient delta desirable_weight discopop_tau entropy_coef
            epsilon epsilon_high eval_delay eval_steps label_smoothing label_smoothing_factor ld_alpha learning_rate logging_steps
            max_grad_norm min_p neftune_noise_alpha num_train_epochs ref_model_mixup_alpha repetition_penalty router_aux_loss_coef
            save_steps temperature top_entropy_quantile top_p undesirable_weight vllm_gpu_memory_utilization vllm_server_timeout
            warmup_steps weight_decay target_kl kl_coef cliprange cliprange_value vf_coef gamma lam early_stopping_threshold""",
        bool="""activation_offloading assistant_only_loss auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16
            bf16_full_eval cast_lm_head_to_fp32 completion_only_loss dataloader_drop_last dataloader_persistent_workers
            dataloader_pin_memory ddp_broadcast_buffers ddp_find_unused_parameters disable_dropout disable_tqdm do_eval do_predict do_train
            ds3_gather_for_generation eval_on_start eval_packing fp16 fp16_full_eval full_determinism gradient_checkpointing
            greater_is_better hub_always_push hub_private_repo ignore_data_skip load_best_model_at_end log_completions
            logging_first_step logging_nan_inf_filter mask_truncated_completions normalize_advantages packing padding_free
            precompute_ref_log_probs prediction_loss_only push_to_hub remove_unused_columns save_on_each_node save_only_model
            shuffle_dataset skip_memory_metrics sync_ref_model tf32 torch_compile trust_remote_code use_cache use_cpu use_liger_kernel
            use_vllm vllm_enable_sleep_mode vllm_importance_sampling_correction
            save_model keep_checkpoints auto_deepspeed allow_multi_gpu whiten_rewards""",
        text="""chat_template_path dataset_text_field ddp_backend eos_token f_divergence_type hub_model_id hub_revision hub_token
            importance_sampling_level length_column_name log_level metric_for_best_model optim_args output_dir packing_strategy pad_token
            project run_name torch_compile_backend torch_compile_mode train_sampling_strategy truncation_mode vllm_mode
            vllm_model_impl vllm_server_base_url vllm_server_host""",
        any="""accelerator_config chat_template_kwargs dataset_kwargs debug deepspeed eval_strategy fsdp fsdp_config generation_kwargs
            gradient_checkpointing_kwargs hub_strategy include_for_metrics include_num_input_tokens_seen label_names logging_strategy
            loss_type loss_weights lr_scheduler_kwargs lr_scheduler_type model_init_kwargs optim optim_target_modules pad_to_multiple_of
            report_to resume_from_checkpoint reward_weights save_strategy scale_rewards early_stopping visible_devices""",
    ),
    {
        "batch_size": "per_device_train_batch_size", "train_batch_size": "per_device_train_batch_size",
        "eval_batch_size": "per_device_eval_batch_size", "steps": "max_steps", "total_steps": "max_steps", "save_freq": "save_steps",
        "max_seq_length": "max_length", "max_seq_len": "max_length", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs",
        "lr": "learning_rate", "grad_accum": "gradient_accumulation_steps", "warmup_ratio": "warmup_steps",
        "evaluation_strategy": "eval_strategy", "log_with": "report_to", "lr_scheduler": "lr_scheduler_type", "no_cuda": "use_cpu",
        "init_kl_coef": "kl_coef", "num_ppo_epochs": "ppo_epochs", "max_grad_normalization": "max_grad_norm",
        "response_length": "max_completion_length", "gpus": "visible_devices",
    },
    _names("""optimize_cuda_cache tracker_project_name tracker_kwargs accelerator_kwargs project_kwargs overwrite_output_dir logging_dir
        save_safetensors jit_mode_eval use_ipex past_index fp16_opt_level half_precision_backend use_mps_device optimize_device_cache
        use_score_norm use_score_scaling score_clip forward_batch_size remove_unused_labels push_to_hub_model_id push_to_hub_token
        push_to_hub_organization model_adapter_name ref_adapter_name is_encoder_decoder max_prompt_length"""),
)  # fmt: skip

GENERATION = SectionNames(
    _kinds(
        int="""max_new_tokens min_new_tokens max_length min_length top_k num_beams num_beam_groups num_return_sequences
            no_repeat_ngram_size encoder_no_repeat_ngram_size bos_token_id pad_token_id decoder_start_token_id prefill_chunk_size
            prompt_lookup_num_tokens max_matching_ngram_size num_assistant_tokens max_cache_len seed n""",
        float="""temperature top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty
            length_penalty diversity_penalty guidance_scale penalty_alpha max_time presence_penalty frequency_penalty""",
        bool="""do_sample use_cache remove_invalid_values renormalize_logits output_scores output_logits output_attentions
            output_hidden_states return_dict_in_generate token_healing low_memory disable_compile""",
        any="""eos_token_id stop_strings suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id bad_words_ids
            force_words_ids sequence_bias early_stopping cache_implementation cache_config watermarking_config
            exponential_decay_length_penalty constraints compile_config dola_layers""",
    ),
    {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "stop": "stop_strings"},
    frozenset(("forced_decoder_ids", "is_assistant", "low_resource")),
)

VLLM = SectionNames(
    _kinds(
        int="""seed max_model_len max_cudagraph_capture_size pipeline_parallel_size tensor_parallel_size data_parallel_size nnodes
            node_rank master_port block_size offload_group_size kv_cache_memory_bytes max_num_batched_tokens max_num_seqs max_logprobs
            max_loras max_lora_rank max_cpu_loras num_gpu_blocks_override long_prefill_token_threshold max_parallel_loading_workers""",
        float="gpu_memory_utilization cpu_offload_gb mm_processor_cache_gb kv_cache_metrics_sample",
        bool="""skip_tokenizer_init trust_remote_code enable_expert_parallel enable_prefix_caching disable_sliding_window
            disable_cascade_attn disable_log_stats enforce_eager disable_custom_all_reduce enable_lora fully_sharded_loras
            enable_chunked_prefill enable_sleep_mode enable_eplb enable_dbo enable_prompt_embeds disable_hybrid_kv_cache_manager""",
        text="""tokenizer hf_config_path runner convert tokenizer_mode allowed_local_media_path download_dir load_format config_format
            dtype kv_cache_dtype revision code_revision tokenizer_revision quantization reasoning_parser scheduling_policy model_impl
            attention_backend generation_config logprobs_mode moe_backend""",
        any="""served_model_name distributed_executor_backend hf_token hf_overrides quantization_config limit_mm_per_prompt
            media_io_kwargs mm_processor_kwargs lora_dtype lora_target_modules ignore_patterns model_loader_extra_config
            structured_outputs_config speculative_config compilation_config kv_transfer_config override_generation_config
            cudagraph_capture_sizes device_ids""",
    ),
    {"max_model_length": "max_model_len", "max_seq_len": "max_model_len", "tp_size": "tensor_parallel_size",
     "pp_size": "pipeline_parallel_size", "tensor_parallel": "tensor_parallel_size", "pipeline_parallel": "pipeline_parallel_size"},
    _names("""swap_space use_v2_block_manager num_scheduler_steps max_seq_len_to_capture guided_decoding_backend
        disable_async_output_proc worker_use_ray num_lookahead_slots"""),
)  # fmt: skip

TRANSFORMERS = SectionNames(
    _kinds(
        int="num_labels",
        bool="low_cpu_mem_usage trust_remote_code use_safetensors local_files_only force_download load_in_4bit load_in_8bit use_cache",
        text="dtype attn_implementation revision code_revision variant subfolder cache_dir tp_plan experts_implementation",
        any="device_map max_memory offload_folder token quantization_config key_mapping",
    ),
    {"torch_dtype": "dtype", "use_auth_token": "token"},
    frozenset(("use_flash_attention_2", "resume_download", "mirror", "offload_state_dict")),
)

CONFIG = SectionNames(
    _kinds(bool="fp16 bf16 device_map_auto gradient_checkpointing use_cache load_in_4bit load_in_8bit trust_remote_code", text="dtype"),
    {"torch_dtype": "dtype"},
    frozenset(),
)

AGENT = SectionNames(
    _kinds(int="max_steps seed max_tokens", float="timeout temperature", bool="verbose", text="type config_name task system_prompt",
           any="tools mcp_servers memory"),
    {"agent_type": "type", "configName": "config_name", "max_iterations": "max_steps", "timeout_sec": "timeout"},
    frozenset(),
)  # fmt: skip

SECTIONS = {
    "training": TRAINING, "generation": GENERATION, "vllm": VLLM, "transformers": TRANSFORMERS, "config": CONFIG, "agent": AGENT,
}  # fmt: skip
