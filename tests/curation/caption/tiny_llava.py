"""A network that writes text about pictures, of random weights and about 75,000 parameters, as a folder on the disk."""

from pathlib import Path

import torch

WORDS = ["<pad>", "<s>", "</s>", "<image>", "<unk>", *(f"word{i}" for i in range(120))]
SIDE, PATCH = 32, 8
TEMPLATE = (
    "{% for said in messages %}user {% for part in said['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %} word7 {% endfor %}"
)


def write_llava(folder: Path, *, template: str | None = TEMPLATE, seed: int = 0) -> None:
    """Write a LLaVA whose tokens are whole words, with its processor.

    Args:
        folder: where to.
        template: how it is talked to; None for a processor that does not say.
        seed: of the weights, which are large enough that pictures change what it says.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=["<image>"], padding_side="right", **special
    )
    sizes = dict(num_hidden_layers=2, num_attention_heads=2)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, image_size=SIDE, patch_size=PATCH, **sizes)
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=48,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **sizes,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=WORDS.index("<image>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(0, 0.3)
            elif "norm" not in name:
                value.normal_(0, 0.1)
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template,
    ).save_pretrained(folder)
