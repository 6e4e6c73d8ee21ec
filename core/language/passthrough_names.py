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
        int="""data_seed dataloader_num_workers dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout eval_accumulation_steps
            generation_batch_size gradient_accumulation_steps local_rank max_completion_length max_length max_steps max_tool_calling_iterations
            num_completions_to_print num_generations num_generations_eval num_iterations per_device_eval_batch_size per_device_train_batch_size
            precompute_ref_batch_size ref_model_sync_steps save_total_limit seed steps_per_generation top_k torch_empty_cache_steps
            vllm_max_model_length vllm_server_port vllm_tensor_parallel_size ppo_epochs mini_batch_size max_new_tokens auto_deepspeed_stage
            zero_stage nproc_per_node early_stopping_patience vllm_group_port""",
        float="""adam_beta1 adam_beta2 adam_epsilon beta center_rewards_coefficient delta desirable_weight discopop_tau entropy_coef epsilon
            epsilon_high eval_delay eval_steps label_smoothing label_smoothing_factor ld_alpha learning_rate logging_steps max_grad_norm min_p
            neftune_noise_alpha num_train_epochs ref_model_mixup_alpha repetition_penalty router_aux_loss_coef save_steps temperature
            top_entropy_quantile top_p undesirable_weight vllm_gpu_memory_utilization vllm_server_timeout warmup_steps weight_decay target_kl
            kl_coef cliprange cliprange_value vf_coef gamma lam early_stopping_threshold entropy_coef_delta entropy_coef_max entropy_coef_min
            entropy_target f_alpha_divergence_coef off_policy_mask_threshold sapo_temperature_neg sapo_temperature_pos vespo_k_neg vespo_k_pos
            vespo_lambda_neg vespo_lambda_pos vllm_importance_sampling_cap vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min""",
        bool="""activation_offloading assistant_only_loss auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval
            cast_lm_head_to_fp32 completion_only_loss dataloader_drop_last dataloader_persistent_workers dataloader_pin_memory ddp_broadcast_buffers
            ddp_find_unused_parameters disable_dropout disable_tqdm do_eval do_predict do_train ds3_gather_for_generation eval_on_start eval_packing
            fp16 fp16_full_eval full_determinism gradient_checkpointing greater_is_better hub_always_push hub_private_repo ignore_data_skip
            load_best_model_at_end log_completions logging_first_step logging_nan_inf_filter mask_truncated_completions normalize_advantages packing
            padding_free precompute_ref_log_probs prediction_loss_only push_to_hub remove_unused_columns save_on_each_node save_only_model
            shuffle_dataset skip_memory_metrics sync_ref_model tf32 torch_compile trust_remote_code use_cache use_cpu use_liger_kernel use_vllm
            vllm_enable_sleep_mode vllm_importance_sampling_correction save_model keep_checkpoints auto_deepspeed allow_multi_gpu whiten_rewards
            dataloader_in_order ddp_static_graph enable_jit_checkpoint eval_do_concat_batches eval_use_gather_object log_multimodal log_on_each_node
            log_unique_prompts restore_callback_states_from_checkpoint use_adaptive_entropy use_bias_correction_kl
            use_transformers_continuous_batching use_transformers_paged use_weighting""",
        text="""chat_template_path dataset_text_field ddp_backend eos_token f_divergence_type hub_model_id hub_revision hub_token
            importance_sampling_level length_column_name log_level metric_for_best_model optim_args output_dir packing_strategy pad_token project
            run_name torch_compile_backend torch_compile_mode train_sampling_strategy truncation_mode vllm_mode vllm_model_impl vllm_server_base_url
            vllm_server_host cache_implementation dataloader_multiprocessing_context log_completions_hub_repo log_level_replica
            multi_objective_aggregation trackio_bucket_id trackio_space_id vllm_importance_sampling_mode vllm_structured_outputs_regex""",
        any="""accelerator_config chat_template_kwargs dataset_kwargs debug deepspeed eval_strategy fsdp fsdp_config generation_kwargs
            gradient_checkpointing_kwargs hub_strategy include_for_metrics include_num_input_tokens_seen label_names logging_strategy loss_type
            loss_weights lr_scheduler_kwargs lr_scheduler_type model_init_kwargs optim optim_target_modules pad_to_multiple_of report_to
            resume_from_checkpoint reward_weights save_strategy scale_rewards early_stopping visible_devices liger_kernel_config parallelism_config
            reward_clip_range trackio_static_space_id transformers_continuous_batching_config eval_split""",
    ),
    {
        "batch_size": "per_device_train_batch_size", "train_batch_size": "per_device_train_batch_size",
        "eval_batch_size": "per_device_eval_batch_size", "steps": "max_steps", "total_steps": "max_steps", "save_freq": "save_steps",
        "max_seq_length": "max_length", "max_seq_len": "max_length", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs",
        "lr": "learning_rate", "grad_accum": "gradient_accumulation_steps", "warmup_ratio": "warmup_steps",
        "evaluation_strategy": "eval_strategy", "log_with": "report_to", "lr_scheduler": "lr_scheduler_type", "no_cuda": "use_cpu",
        "init_kl_coef": "kl_coef", "num_ppo_epochs": "ppo_epochs", "max_grad_normalization": "max_grad_norm",
        "response_length": "max_completion_length", "gpus": "visible_devices", "rloo_k": "num_generations",
        "per_gpu_train_batch_size": "per_device_train_batch_size", "per_gpu_eval_batch_size": "per_device_eval_batch_size",
        "vllm_guided_decoding_regex": "vllm_structured_outputs_regex", "num_processes": "nproc_per_node",
    },
    _names("""optimize_cuda_cache tracker_project_name tracker_kwargs accelerator_kwargs project_kwargs overwrite_output_dir logging_dir
        save_safetensors jit_mode_eval use_ipex past_index fp16_opt_level half_precision_backend use_mps_device optimize_device_cache
        use_score_norm use_score_scaling score_clip forward_batch_size remove_unused_labels push_to_hub_model_id push_to_hub_token
        push_to_hub_organization model_adapter_name ref_adapter_name is_encoder_decoder max_prompt_length exp_name task_name model_name
        query_dataset adap_kl_ctrl horizon kl_penalty compare_steps ratio_threshold backward_batch_size is_peft_model world_size
        use_legacy_prediction_loop fp16_backend sharded_ddp xpu_backend tpu_num_cores tpu_metrics_debug group_by_length include_tokens_per_second
        dispatch_batches split_batches dataset_batch_size num_of_sequences chars_per_token generate_during_eval label_pad_token_id padding_value
        max_target_length force_use_ref_model reference_free rpo_alpha use_logits_to_keep base_model_attribute_name vllm_device vllm_dtype
        vllm_enable_prefix_caching num_sample_generations token_level_kl normalize_reward mp_parameters torchdynamo
        ray_scope include_inputs_for_metrics fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap"""),
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
        any="""eos_token_id stop_strings suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id bad_words_ids force_words_ids
            sequence_bias early_stopping cache_implementation cache_config watermarking_config exponential_decay_length_penalty constraints
            compile_config dola_layers assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight assistant_lookbehind
            continuous_batching_config num_assistant_tokens_schedule speculation_type target_lookbehind use_mtp""",
    ),
    {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "stop": "stop_strings"},
    _names("""forced_decoder_ids is_assistant low_resource use_bfloat16 pruned_heads"""),
)

VLLM = SectionNames(
    _kinds(
        int="""seed max_model_len max_cudagraph_capture_size pipeline_parallel_size tensor_parallel_size data_parallel_size nnodes node_rank
            master_port block_size offload_group_size kv_cache_memory_bytes max_num_batched_tokens max_num_seqs max_logprobs max_loras max_lora_rank
            max_cpu_loras num_gpu_blocks_override long_prefill_token_threshold max_parallel_loading_workers cp_kv_cache_interleave_size
            cpu_distributed_timeout_seconds data_parallel_rank data_parallel_rpc_port data_parallel_size_local data_parallel_start_rank
            dbo_decode_token_threshold dbo_prefill_token_threshold dcp_kv_cache_interleave_size decode_context_parallel_size
            distributed_timeout_seconds dp_sync_interval elastic_ep_max_dp_size mamba_block_size mamba_cache_philox_rounds max_lora_cls_labels
            max_num_active_seqs max_num_queued_reqs max_num_queued_tokens max_num_scheduled_tokens mm_shm_cache_max_object_size_mb
            offload_num_in_group offload_prefetch_step prefill_context_parallel_size prefill_schedule_interval prefix_cache_retention_interval
            prefix_match_unit renderer_num_workers replayssm_buffer_len safetensors_prefetch_block_size safetensors_prefetch_num_threads
            shutdown_timeout spec_tokens stream_interval ubatch_size""",
        float="""gpu_memory_utilization cpu_offload_gb mm_processor_cache_gb kv_cache_metrics_sample kv_offloading_size
            mm_encoder_fp8_scale_save_margin mm_ipc_gpu_memory_gb video_pruning_rate watermark""",
        bool="""skip_tokenizer_init trust_remote_code enable_expert_parallel enable_prefix_caching disable_sliding_window disable_cascade_attn
            disable_log_stats enforce_eager disable_custom_all_reduce enable_lora fully_sharded_loras enable_chunked_prefill enable_sleep_mode
            enable_eplb enable_dbo enable_prompt_embeds disable_hybrid_kv_cache_manager aggregate_engine_logging allow_deprecated_quantization
            async_scheduling cudagraph_metrics data_parallel_external_lb data_parallel_hybrid_lb data_parallel_multi_port_external_lb
            dcp_q_replicate disable_chunked_mm_input disable_nccl_for_dp_synchronization enable_batch_sharded_sampling enable_cumem_allocator
            enable_elastic_ep enable_ep_weight_filter enable_fault_tolerance enable_flashinfer_autotune enable_hc_sp enable_layerwise_nvtx_tracing
            enable_logging_iteration_details enable_mamba_cache_stochastic_rounding enable_mamba_shared_prefix_checkpoint enable_mfu_metrics
            enable_mixed_moe_lora_format enable_mm_embeds enable_mm_processor_stats enable_moe_shared_loras enable_nccl_comm_suspend
            enable_return_routed_experts enable_shm_tensor_arena enable_tower_connector_lora enable_trace_replay fail_on_environ_validation
            interleave_mm_strings jit_monitor_verbose kv_cache_metrics kv_sharing_fast_prefill language_model_only
            long_prefill_token_threshold_adaptive mm_device_do_normalize mm_encoder_only numa_bind ray_workers_use_nsight return_sampling_mask
            scheduler_reserve_full_isl skip_mm_profiling sleep_mode_offload_cudagraph specialize_active_lora swa_bounded_replay tokens_only
            use_fp64_gumbel use_replayssm use_tqdm_on_load""",
        text="""tokenizer hf_config_path runner convert tokenizer_mode allowed_local_media_path download_dir load_format config_format dtype
            kv_cache_dtype revision code_revision tokenizer_revision quantization reasoning_parser scheduling_policy model_impl attention_backend
            generation_config logprobs_mode moe_backend all2all_backend data_parallel_address data_parallel_backend expert_placement_strategy
            io_processor_plugin jit_monitor_mode kv_offloading_backend linear_backend log_config_file mamba_cache_dtype mamba_cache_mode
            mamba_ssm_cache_dtype master_addr mm_encoder_attn_dtype mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path mm_encoder_tp_mode
            mm_hasher_algorithm mm_processor_device mm_tensor_ipc model_weights offload_backend otlp_traces_endpoint per_request_spec_decode_metrics
            performance_mode prefix_caching_hash_algo reasoning_parser_plugin show_hidden_metrics_for_version sparse_indexer_topk_backend
            spec_method spec_model video_pruning_method worker_cls worker_extension_cls""",
        any="""served_model_name distributed_executor_backend hf_token hf_overrides quantization_config limit_mm_per_prompt media_io_kwargs
            mm_processor_kwargs lora_dtype lora_target_modules ignore_patterns model_loader_extra_config structured_outputs_config
            speculative_config compilation_config kv_transfer_config override_generation_config cudagraph_capture_sizes device_ids additional_config
            allowed_media_domains attention_config aux_output_config collect_detailed_traces cpu_offload_params custom_histogram_buckets
            dcp_comm_backend default_mm_loras diffusion_config ec_manager_config ec_transfer_config engram_config eplb_config fault_tolerance_config
            gdn_prefill_backend ir_op_priority kda_decode_backend kda_prefill_backend kernel_config kv_cache_dtype_skip_layers kv_events_config
            log_level logging_config logits_processors mamba_backend mamba_config mamba_ssu_algorithm mm_encoder_attn_backend
            mm_processor_cache_type model_class_overrides numa_bind_cpus numa_bind_nodes offload_params optimization_level pooler_config
            profiler_config pt_load_map_location reasoning_config safetensors_load_strategy scheduler_cls sleep_preserve_parameter_names
            watermark_config weight_transfer_config""",
    ),
    {"max_model_length": "max_model_len", "max_seq_len": "max_model_len", "tp_size": "tensor_parallel_size",
     "pp_size": "pipeline_parallel_size", "tensor_parallel": "tensor_parallel_size", "pipeline_parallel": "pipeline_parallel_size",
     "torch_dtype": "dtype", "cuda_graph_sizes": "cudagraph_capture_sizes"},
    _names("""swap_space use_v2_block_manager num_scheduler_steps max_seq_len_to_capture guided_decoding_backend disable_async_output_proc
        worker_use_ray num_lookahead_slots max_context_len_to_capture lora_extra_vocab_size enable_lora_bias speculative_model
        num_speculative_tokens use_beam_search disable_log_requests task preemption_mode rope_scaling rope_theta qlora_adapter_name_or_path
        enable_prompt_adapter max_prompt_adapters max_prompt_adapter_token multi_step_stream_outputs scheduler_delay_factor image_input_type
        device long_lora_scaling_factors override_neuron_config override_pooler_config logits_processor_pattern disable_mm_preprocessor_cache
        enable_reasoning engine_use_ray max_paddings"""),
)  # fmt: skip

TRANSFORMERS = SectionNames(
    _kinds(
        bool="low_cpu_mem_usage trust_remote_code use_safetensors local_files_only force_download load_in_4bit load_in_8bit use_cache",
        text="dtype attn_implementation revision code_revision variant subfolder cache_dir tp_plan experts_implementation",
        any="device_map max_memory offload_folder offload_buffers token quantization_config key_mapping",
    ),
    {"torch_dtype": "dtype", "use_auth_token": "token"},
    _names("""use_flash_attention_2 resume_download mirror offload_state_dict from_tf from_flax use_flash_attention torchscript"""),
)

CONFIG = SectionNames(
    _kinds(bool="fp16 bf16 device_map_auto gradient_checkpointing use_cache load_in_4bit load_in_8bit trust_remote_code", text="dtype"),
    {"torch_dtype": "dtype"},
    frozenset(),
)

AGENT = SectionNames(
    _kinds(int="max_steps seed max_tokens max_total_tokens", float="timeout temperature", bool="verbose",
           text="type config_name task system_prompt tool_calls", any="tools mcp_servers memory"),
    {"agent_type": "type", "configName": "config_name", "max_iterations": "max_steps", "timeout_sec": "timeout"},
    frozenset(),
)  # fmt: skip

SECTIONS = {
    "training": TRAINING, "generation": GENERATION, "vllm": VLLM, "transformers": TRANSFORMERS, "config": CONFIG, "agent": AGENT,
}  # fmt: skip
