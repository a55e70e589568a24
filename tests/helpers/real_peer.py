"""Real peers, as child processes: python real_peer.py serve FOLDER --port N | plain GGUF_FOLDER GGUF_FILE OUT

`serve` is transformers' own server. Beside a CPU torch torchvision is a CUDA build: its operators are declared by
armor_model.base.runtime, and its image decoder, which is missing too, is replaced by Pillow's here. `plain` writes a
GGUF file as the transformers folder that the server can load (it cannot save a quantised model).
"""

from __future__ import annotations

import io
import sys


def serve() -> None:
    import numpy as np
    import torch
    import torchvision.io
    from PIL import Image
    from transformers.cli import transformers as program

    def decode(source, *_, **__):
        data = bytes(source.numpy()) if isinstance(source, torch.Tensor) else source
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    torchvision.io.decode_image = decode
    sys.argv[0] = "transformers"
    program.main()


def plain(folder: str, file: str, out: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    known = loaded.config.to_dict()
    for name in ("quantization_config", "architectures", "_name_or_path"):
        known.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**known))
    model.load_state_dict(loaded.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    import torch

    from armor_model.base.runtime import prepare_torchvision

    torch.set_num_threads(1)
    prepare_torchvision()
    serve() if sys.argv[1] == "serve" else plain(*sys.argv[2:])
