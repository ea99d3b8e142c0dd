#!/usr/bin/env bash
# Record results under benchmarks/: `benchmarks/record.sh accuracy cpu-kv`, or `all` for everything that needs neither a GPU nor vLLM.
# Rows recorded as `learned` before 1 December 2026 had no fading, which was the default: the commands say `learned:fading=0`, which makes
# them today; the command inside of their results.json is the one of then.
# Run it at the root of the repository, with nothing else running. Interrupted, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export HF_HUB_OFFLINE=1

record() {
  case "$1" in vllm-*) PATH="$PWD/.venv-vllm/bin:$PATH" ;; esac # `make setup-vllm`
  case "$1" in
    accuracy) laconic bench accuracy --problems 100 --batch 192 --out benchmarks/accuracy ;;
    lightthinker-reasoner) python -m training.lightthinker runs/lightthinker --out runs/reasoner-lightthinker --threads 1 ;;
    lightthinker) laconic bench accuracy --model runs/reasoner-lightthinker --problems 50 --policies lightthinker --max-new-tokens 1536 --batch 50 --keep-tokens --out benchmarks/lightthinker ;; # of what lightthinker-reasoner makes
    lightthinker-others) laconic bench accuracy --problems 50 --policies "rpc;random;streamingllm" --ratios 2,4 --max-new-tokens 1536 --batch 50 --out benchmarks/lightthinker-others ;;
    parallel) laconic bench parallel --problems 100 --policies "none;rpc:ratio=4" --strategies "deepconf:low;deepconf:high;deepprune;deepprune:K2=3" --judges "bundled;jaccard;random;perfect" --timed 3 --batch 192 --out benchmarks/parallel ;;
    parallel-c2) laconic bench parallel --problems 100 --n 16 --policies "none;rpc:ratio=2" --strategies "deepconf:low;deepconf:high;deepprune;deepprune:K2=3" --judges "bundled;jaccard;random;perfect" --timed 0 --batch 192 --out benchmarks/parallel-c2 ;;
    # The model lies in the directory Qwen2.5-Coder-0.5B-Instruct; problems are JSON lines with id, question and answer.
    selector-gsm8k) laconic learn Qwen2.5-Coder-0.5B-Instruct --source gsm8k-train-2000.jsonl --problems 240 --temperature .7 --top-p .95 --max-new-tokens 512 --batch 128 ;;
    accuracy-gsm8k) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test.jsonl --problems 300 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 150 --policies "learned:fading=0;rpc;random;rkv" --ratios 4 --out benchmarks/accuracy-gsm8k ;;
    accuracy-gsm8k-again) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test.jsonl --problems 300 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 256 --policies "learned:fading=0;random;rpc;rkv;streamingllm" --ratios 4,8 --sample-seed 1 --out benchmarks/accuracy-gsm8k-again ;;
    # gsm8k-test-301-600.jsonl: those lines of the test set.
    accuracy-gsm8k-301-600) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test-301-600.jsonl --problems 300 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 150 --policies "learned:fading=0;learned:fading=1;streamingllm;random;rpc;randomattention;rkv" --ratios 4 --sample-seed 2 --keep-tokens --out benchmarks/accuracy-gsm8k-301-600 ;;
    accuracy-gsm8k-601-900) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test-601-900.jsonl --problems 300 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 150 --policies "learned:fading=0;learned:fading=1;streamingllm;random;rpc;rkv;randomattention;h2o;tova;vase" --ratios 4 --sample-seed 3 --keep-tokens --out benchmarks/accuracy-gsm8k-601-900 ;;
    # gsm8k-test-901-1100.jsonl: those lines of the test set.
    accuracy-gsm8k-c2) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test-901-1100.jsonl --problems 200 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 200 --policies "learned;streamingllm;random;rpc" --ratios 2 --sample-seed 4 --out benchmarks/accuracy-gsm8k-c2 ;;
    accuracy-gsm8k-pooled) python benchmarks/accuracy_pooled.py benchmarks/accuracy-gsm8k-again benchmarks/accuracy-gsm8k-301-600 benchmarks/accuracy-gsm8k-601-900 --out benchmarks/accuracy-gsm8k-pooled ;;
    # math500-easier-100.jsonl: the first 100 problems of levels 1 to 3.
    accuracy-math500) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source math500-easier-100.jsonl --problems 100 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 100 --policies "learned:fading=0;learned:interval=64,window=16,fading=1;streamingllm;random;rpc;rkv;randomattention;vase;h2o;tova" --ratios 4 --out benchmarks/accuracy-math500 ;;
    # math500-easier-101-200.jsonl: the next 100 of these.
    accuracy-math500-101-200) laconic bench accuracy --model Qwen2.5-Coder-0.5B-Instruct --source math500-easier-101-200.jsonl --problems 100 --temperature .7 --top-p .95 --max-new-tokens 512 --interval 64 --window 16 --batch 100 --policies "learned;learned:fading=0;streamingllm;random;rpc;vase;randomattention" --ratios 4 --sample-seed 1 --out benchmarks/accuracy-math500-101-200 ;;
    accuracy-math500-pooled) python benchmarks/accuracy_pooled.py benchmarks/accuracy-math500 benchmarks/accuracy-math500-101-200 --out benchmarks/accuracy-math500-pooled ;;
    fidelity-math500) laconic bench fidelity --model Qwen2.5-Coder-0.5B-Instruct --source math500.jsonl --problems 40 --tokens 512 --interval 128 --window 32 --policies "learned:fading=0;rpc;rkv;h2o;tova;random;streamingllm;hindsight" --ratios 4 --batch 32 --out benchmarks/fidelity-math500 ;;
    fidelity-gsm8k) laconic bench fidelity --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test.jsonl --problems 36 --tokens 512 --interval 64 --window 16 --policies "learned:fading=0;rpc;rkv;h2o;tova;random;streamingllm;hindsight" --ratios 4 --batch 36 --out benchmarks/fidelity-gsm8k ;;
    selector-math500) laconic learn Qwen2.5-Coder-0.5B-Instruct --source math500-101-300.jsonl --problems 200 --temperature .7 --top-p .95 --max-new-tokens 512 --batch 128 --out math.safetensors ;;
    fidelity-math500-again) laconic bench fidelity --model Qwen2.5-Coder-0.5B-Instruct --source math500-41-80.jsonl --problems 32 --tokens 512 --interval 128 --window 32 --policies "learned:fading=0;rpc;rkv;random;streamingllm;hindsight;learned:math.safetensors,fading=0;learned:fading=1" --ratios 4,8 --batch 32 --out benchmarks/fidelity-math500-again ;;
    fidelity-gsm8k-again) laconic bench fidelity --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test-301-336.jsonl --problems 36 --tokens 512 --interval 64 --window 16 --policies "learned:fading=0;rpc;rkv;random;streamingllm;hindsight;learned:math.safetensors,fading=0;learned:fading=1" --ratios 4,8 --batch 36 --out benchmarks/fidelity-gsm8k-again ;;
    # learn-gsm8k is the --work of selector-gsm8k, learned.safetensors what that made.
    selectors) python benchmarks/selector_ablation.py Qwen2.5-Coder-0.5B-Instruct learn-gsm8k/traces-*.jsonl --work learn-gsm8k --out selectors --recipes layer,value,key,squared,rank,unweighted ;;
    selector-ablation) laconic bench fidelity --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-train-241-276.jsonl --problems 28 --tokens 512 --interval 64 --window 16 --policies "learned:learned.safetensors,fading=0;learned:selectors/key.safetensors,fading=0;learned:selectors/layer.safetensors,fading=0;learned:selectors/rank.safetensors,fading=0;learned:selectors/squared.safetensors,fading=0;learned:selectors/unweighted.safetensors,fading=0;learned:selectors/value.safetensors,fading=0;learned:learned.safetensors,fading=0.3;learned:learned.safetensors,fading=1;learned:learned.safetensors,fading=3;rpc;random" --ratios 4 --batch 28 --out benchmarks/selector-ablation ;;
    chained-traces) python benchmarks/chain_traces.py gsm8k-test-100x1.jsonl chained-4096.jsonl --tokens 4096 ;; # of `laconic collect`, n = 1
    fidelity-chained) laconic bench fidelity --model Qwen2.5-Coder-0.5B-Instruct --traces chained-4096.jsonl --tokens 4096 --interval 1024 --window 32 --policies "learned:fading=0;rpc;rkv;random;streamingllm;hindsight;learned:fading=1;learned:fading=3" --ratios 4,8 --batch 4 --out benchmarks/fidelity-chained ;;
    fidelity-and-accuracy) python benchmarks/fidelity_and_accuracy.py benchmarks/fidelity-gsm8k-again benchmarks/accuracy-gsm8k-again --out benchmarks/fidelity-and-accuracy ;;
    fidelity-and-accuracy-math500) python benchmarks/fidelity_and_accuracy.py benchmarks/fidelity-math500 benchmarks/accuracy-math500 --out benchmarks/fidelity-and-accuracy-math500 ;;
    votes-gsm8k-others) laconic bench parallel --traces gsm8k-test-100x16.jsonl --n 16 --few "" --orders 20 --strategies "priced-vote:price=0.012,first=4,parallel=4;deepconf:low,window=64;deepconf:high,window=64;step:kv=1200,window=64;step:kv=2400,window=64;deepprune" --judges "jaccard;perfect" --excerpt tokens:96 --out benchmarks/votes-gsm8k-others ;;
    votes-gsm8k) laconic bench parallel --traces gsm8k-test-100x16.jsonl --n 16 --few "" --orders 60 --strategies "priced-vote:price=0.012;priced-vote;priced-vote:price=0.012,first=4,parallel=4;adaptive-consistency" --pools 2x,3x,4x,6x,8x --out benchmarks/votes-gsm8k ;;
    judges-trained-gsm8k)
      for tokens in 24 48 96 120; do
        laconic judge train -t gsm8k-test-100x16.jsonl -m Qwen2.5-Coder-0.5B-Instruct --device cpu --folds 5 --epochs 4 --excerpt "tokens:$tokens" --out "judge-$tokens"
      done
      laconic judge train -t gsm8k-test-100x16.jsonl -m Qwen2.5-Coder-0.5B-Instruct --device cpu --folds 5 --epochs 4 --excerpt tokens:96 --seed 1 --out judge-96-seed1
      ;;
    judges-gsm8k) laconic judge eval -t gsm8k-test-100x16.jsonl -j jaccard -j facts -j random -j encoder:judge-96 -j encoder:judge-96-seed1 -m Qwen2.5-Coder-0.5B-Instruct --device cpu --excerpt tokens:96 --out benchmarks/judges-gsm8k ;;
    judges-gsm8k-24) laconic judge eval -t gsm8k-test-100x16.jsonl -j jaccard -j facts -j random -j encoder:judge-24 -m Qwen2.5-Coder-0.5B-Instruct --device cpu --excerpt tokens:24 --out benchmarks/judges-gsm8k-24 ;;
    judges-gsm8k-48) laconic judge eval -t gsm8k-test-100x16.jsonl -j jaccard -j facts -j random -j encoder:judge-48 -m Qwen2.5-Coder-0.5B-Instruct --device cpu --excerpt tokens:48 --out benchmarks/judges-gsm8k-48 ;;
    judges-gsm8k-120) laconic judge eval -t gsm8k-test-100x16.jsonl -j jaccard -j facts -j random -j encoder:judge-120 -m Qwen2.5-Coder-0.5B-Instruct --device cpu --excerpt tokens:120 --out benchmarks/judges-gsm8k-120 ;;
    judge-ablation-gsm8k) laconic judge ablate -t gsm8k-test-100x16.jsonl -m Qwen2.5-Coder-0.5B-Instruct --device cpu --folds 5 --epochs 4 --excerpts tokens:96 --out benchmarks/judge-ablation-gsm8k ;;
    judges-curve-gsm8k) laconic bench parallel --traces gsm8k-test-100x16.jsonl --n 16 --few "" --orders 6 --excerpt tokens:96 --strategies "priced-vote:price=0.012,first=4,parallel=4;deepprune:K2=1,similarity=probability,tau=0.2;deepprune:K2=4,similarity=probability,tau=0.2;deepprune:K2=4,vote=size,similarity=probability,tau=0.2;deepprune:K2=1;deepprune:K2=4;deepprune:K2=4,vote=size" --judges "encoder:judge-96;jaccard" --out benchmarks/judges-curve-gsm8k ;;
    both-halves-gsm8k) .venv-vllm/bin/python benchmarks/both_halves.py --model Qwen2.5-Coder-0.5B-Instruct --source gsm8k-test.jsonl --problems 40 --n 8 --cache-tokens 3000 --max-new-tokens 512 --temperature .7 --top-p .95 --strategies "self-consistency:early_end=false;deepprune:K2=4,excerpt=tokens:96" --judge jaccard --policies "none;streamingllm:budget=64,buffer=32" --rounds 1 --out benchmarks/both-halves-gsm8k ;;
    judge-break-even)
      laconic bench parallel --traces gsm8k-test-100x16.jsonl --n 16 --few "" --orders 6 --excerpt tokens:96 --strategies "deepprune:K2=1;deepprune:K2=4;deepprune:K2=4,vote=size" --judges "simulated:auroc=0.5;simulated:auroc=0.6;simulated:auroc=0.7;simulated:auroc=0.8;simulated:auroc=0.9;simulated:auroc=0.95;perfect" --out runs/break-even-96
      python benchmarks/judge_break_even.py runs/break-even-96 --out benchmarks/judge-break-even
      ;;
    judged-vote)
      laconic bench parallel --traces gsm8k-test-100x16.jsonl --n 16 --few "" --orders 6 --excerpt tokens:96 --strategies "priced-vote:price=0.03;priced-vote:price=0.012;priced-vote:price=0.009;priced-vote:price=0.007;priced-vote;priced-vote:price=0.003;priced-vote:price=0.0015;judged-vote:price=0.012;judged-vote" --judges "simulated:auroc=0.6;simulated:auroc=0.7;simulated:auroc=0.8;simulated:auroc=0.9;simulated:auroc=0.95;perfect" --out runs/judged-vote
      python benchmarks/judged_vote.py runs/judged-vote --out benchmarks/judged-vote
      ;;
    bundled-traces)
      laconic collect --problems 100 --n 16 --batch 192 --confidence-top-k 20 --out bundled-100x16.jsonl
      laconic collect --problems 100 --n 16 --batch 48 --confidence-top-k 20 --spend 4x --out bundled-pool.jsonl
      ;;
    votes-bundled) laconic bench parallel --traces bundled-100x16.jsonl --n 16 --few "" --orders 30 --strategies "priced-vote:price=0.012;priced-vote;adaptive-consistency" --pools 2x,3x,4x,6x --out benchmarks/votes-bundled ;;
    pool-bundled) python benchmarks/pool_live.py bundled-pool.jsonl benchmarks/votes-bundled/results.jsonl "pool 4x" --out benchmarks/pool-bundled ;;
    auto-gsm8k)
      laconic calibrate gsm8k-test-100x16.jsonl --orders 60 --out runs/calibration.json
      python benchmarks/auto_on_other_problems.py runs/calibration.*.results.jsonl --out benchmarks/auto-gsm8k
      ;;
    judged-traces)
      laconic collect --problems 100 --n 16 --batch 192 --out runs/heldout.jsonl
      laconic collect --problems 40 --n 16 --seed 4 --temperature 0.6 --batch 192 --out runs/cool.jsonl
      ;;
    judges) laconic judge eval -t runs/heldout.jsonl --unseen runs/cool.jsonl -j bundled -j jaccard -j facts -j random -j probe --out benchmarks/judges ;;
    traces-compressed) laconic analyze gsm8k-301-600/traces.jsonl --tokenizer Qwen2.5-Coder-0.5B-Instruct --lengths 128,256 --out benchmarks/traces-compressed ;;
    traces-qwen) laconic analyze traces-and-text.jsonl --tokenizer Qwen2.5-Coder-0.5B-Instruct --lengths 64,128,256,512 --out benchmarks/traces-qwen ;;
    traces) laconic analyze --model bundled --problems 200 --policies "full;rpc;random" --out benchmarks/traces ;;
    cpu-kv | cpu-policies | cpu-weights | cpu-parity | rpc-paper) laconic bench throughput --preset "$1" --out "benchmarks/$1" ;;
    vllm-cpu) laconic bench vllm -p "rpc;rpc:interval=64,ratio=8;rkv;streamingllm" --out benchmarks/vllm-cpu ;;
    vllm-cpu-kv) laconic bench vllm --shape tiny-kv -p rpc -c 4,8 --output 2000 --cache 100,25 -r 3 --out benchmarks/vllm-cpu-kv ;;
    vllm-learned) laconic bench vllm -m bundled -p "rpc;learned:fading=0" --output 900 --cache 100,50,25 -r 5 --out benchmarks/vllm-learned ;;
    peers-qwen) python benchmarks/peers/run.py --model Qwen2.5-Coder-0.5B-Instruct --out benchmarks/peers-qwen --rows 8 --tokens 768 --budget 256 --interval 128 --repeats 1 --methods "kvpress SnapKV;laconic engine, SnapKV;laconic engine, full KV;generate;laconic engine, learned;vLLM;vLLM with laconic, RPC" --python kvpress=.venv-kvpress/bin/python vllm=.venv-vllm/bin/python ;;
    peers-openvino) python benchmarks/peers/run.py --model Qwen2.5-Coder-0.5B-Instruct --openvino Qwen2.5-Coder-0.5B-Instruct-openvino --out benchmarks/peers-openvino --rows 8 --tokens 384 --budget 128 --interval 64 --repeats 1 --methods "OpenVINO with eviction;OpenVINO;laconic engine, learned;generate" --python openvino=.venv-openvino/bin/python ;;
    peers-tiny-kv)
      python benchmarks/peers/random_model.py tiny-kv tiny-kv
      .venv-openvino/bin/optimum-cli export openvino -m tiny-kv --task text-generation-with-past --weight-format fp32 tiny-kv-openvino
      python benchmarks/peers/run.py --model tiny-kv --dtype float32 --openvino tiny-kv-openvino --out benchmarks/peers-tiny-kv --rows 8 --tokens 2048 --budget 256 --interval 128 --repeats 3 --methods "kvpress SnapKV;laconic engine, SnapKV;laconic engine, full KV;laconic engine, RPC;generate;OpenVINO;OpenVINO with eviction;vLLM;vLLM with laconic, RPC" --python kvpress=.venv-kvpress/bin/python openvino=.venv-openvino/bin/python vllm=.venv-vllm/bin/python
      ;;
    step-time) python benchmarks/step_time.py --out benchmarks/step-time ;;
    serve-soak) python benchmarks/serve_soak.py --seconds 600 --clients 64 --out benchmarks/serve-soak ;;
    two-servers) .venv-vllm/bin/python benchmarks/two_servers.py --out benchmarks/two-servers ;;
    serve-soak-vllm) .venv-vllm/bin/python benchmarks/serve_soak.py --engine vllm --seconds 300 --clients 64 --out benchmarks/serve-soak-vllm ;;
    serve-speed) python benchmarks/serve_speed.py --rounds 10 --out benchmarks/serve-speed ;;
    serve-speed-qwen) python benchmarks/serve_speed.py --model Qwen2.5-Coder-0.5B-Instruct --tokens 100 --rounds 3 --out benchmarks/serve-speed-qwen ;;
    vllm-v2) python benchmarks/vllm_v2.py --out benchmarks/vllm-v2 ;; # beside that: pip install --no-deps triton
    *)
      echo "error: there is nothing to record by the name $1; expected accuracy, lightthinker-reasoner, lightthinker, lightthinker-others, parallel, parallel-c2, selector-gsm8k, accuracy-gsm8k, accuracy-gsm8k-again, accuracy-gsm8k-301-600, accuracy-gsm8k-601-900, accuracy-gsm8k-c2, accuracy-gsm8k-pooled, accuracy-math500, accuracy-math500-101-200, accuracy-math500-pooled, fidelity-math500, fidelity-gsm8k, selector-math500, fidelity-math500-again, fidelity-gsm8k-again, selectors, selector-ablation, chained-traces, fidelity-chained, fidelity-and-accuracy, fidelity-and-accuracy-math500, votes-gsm8k, votes-gsm8k-others, judges-trained-gsm8k, judges-gsm8k, judges-gsm8k-24, judges-gsm8k-48, judges-gsm8k-120, judge-ablation-gsm8k, judges-curve-gsm8k, both-halves-gsm8k, judge-break-even, judged-vote, bundled-traces, votes-bundled, pool-bundled, auto-gsm8k, judged-traces, judges, traces, traces-qwen, traces-compressed, cpu-kv, cpu-policies, cpu-weights, cpu-parity," \
        "rpc-paper, vllm-cpu, vllm-cpu-kv, vllm-learned, vllm-v2, peers-qwen, peers-openvino, peers-tiny-kv, step-time, serve-soak, serve-soak-vllm, serve-speed, serve-speed-qwen, two-servers or all" >&2
      exit 2
      ;;
  esac
}

[ $# -gt 0 ] || set -- help
[ "$1" != all ] || set -- accuracy parallel parallel-c2 judged-traces judges traces cpu-kv cpu-policies cpu-weights cpu-parity
for name in "$@"; do (record "$name"); done
