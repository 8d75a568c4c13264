"""mPLUG-Owl as a library of its own, which imports none of our other packages.

    from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor

    processor = MplugOwlProcessor.from_pretrained(folder)
    model = MplugOwlForConditionalGeneration.from_pretrained(folder, dtype="bfloat16")
    inputs = processor(text=["…Human: <image>\\nHuman: What is this?\\nAI: "], images=[image], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=128, do_sample=False)
    print(processor.batch_decode(tokens, skip_special_tokens=True))

Importing it registers the classes with AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
AutoModelForMultimodalLM, AutoProcessor and AutoImageProcessor.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from mplug_owl.checkpoint import CheckpointError, CheckpointFacts, inspect, load_adapter, save_published
from mplug_owl.configuration import MplugOwlConfig, MplugOwlVisionConfig, MplugOwlVisualAbstractorConfig
from mplug_owl.image_processing import MplugOwlImageProcessor
from mplug_owl.modeling import MplugOwlForConditionalGeneration
from mplug_owl.processing import MplugOwlProcessor
from mplug_owl.tokenization import MplugOwlTokenizer

__all__ = [
    "CheckpointError",
    "CheckpointFacts",
    "MplugOwlConfig",
    "MplugOwlForConditionalGeneration",
    "MplugOwlImageProcessor",
    "MplugOwlProcessor",
    "MplugOwlTokenizer",
    "MplugOwlVisionConfig",
    "MplugOwlVisualAbstractorConfig",
    "inspect",
    "load_adapter",
    "save_published",
]

AutoConfig.register(MplugOwlConfig.model_type, MplugOwlConfig)
AutoProcessor.register(MplugOwlConfig, MplugOwlProcessor)  # type: ignore[no-untyped-call]
AutoImageProcessor.register(MplugOwlConfig, image_processor_classes={"pil": MplugOwlImageProcessor})
for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(MplugOwlConfig, MplugOwlForConditionalGeneration)
