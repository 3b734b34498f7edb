#pragma once
// The schedules that fill more of the pipeline than 1F1B (parallel/pp/schedule.h). p ranks, m
// microbatches; F, B, W are the times of forward, input gradient and weight gradient of a stage;
// the bubble is the idle time of a rank in a step. docs/concepts/pipeline.md has pictures.
#include "parallel/pp/schedule.h"

namespace muster::parallel {

// "interleaved_1f1b" (Narayanan et al., Megatron-LM, 2021): rank r holds stages r, r + p, ... of
// v p, each 1 / v as long, and runs groups of p microbatches through one after the other. Bubble
// (p-1)(F+B+W) of these shorter stages. m must be a multiple of p.
Schedule Interleaved(const PipelineShape& shape);

// "zb_h1" (Qi et al., Zero Bubble Pipeline Parallelism, 2023): 1F1B with the weight gradients apart
// and late: rank r keeps r of them back, so all ranks hold p microbatches, and the end of the step
// is filled with them. Bubble (p-1)(F+B-W).
Schedule ZeroBubbleH1(const PipelineShape& shape);

// "zb_v" (Qi et al., Pipeline Parallelism with Controllable Memory, 2024): rank r holds stages r
// and 2p-1-r of 2p, so the first and the last are neighbours on rank 0. No bubble where F = B = W,
// with the memory of 1F1B. m must be at least 2p.
Schedule ZeroBubbleV(const PipelineShape& shape);

// "dualpipev" (DeepSeek, DualPipe, 2025): stages as in zb_v; forwards of one microbatch are paired
// with backwards of another, which lets the one compute while the other communicates. Performed one
// after the other here, as (F&B) = F+B+W. Bubble (p-1)((F&B) + B - 2W): with P = 2p stages, the
// published (P/2-1)((F&B) + (B+W) - 3W). m must be at least 2p.
Schedule DualPipeV(const PipelineShape& shape);

}  // namespace muster::parallel
