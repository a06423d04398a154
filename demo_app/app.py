"""The web page: upload an image, read its text. Start it with `python app.py`."""

from pathlib import Path

import gradio as gr
from ocr import ImageError, Recognizer, find_images

HERE = Path(__file__).parent
LOOK = {"theme": gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])}


def build(folder: Path) -> gr.Blocks:
    """Build the page for the model in a folder.

    Raises:
        ocr.ModelError: If the model can't be loaded.
    """
    recognizer = Recognizer(folder)

    def predict(image: str | None) -> tuple[str, str]:
        if image is None:
            sentence = "There is no image yet. Upload or paste one, or click on an example."
            raise gr.Error(sentence, print_exception=False)
        try:
            reading = recognizer.read(image)
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return reading.text, f"{reading.confidence:.1%}"

    with gr.Blocks(title="CustomOCR", analytics_enabled=False) as page:
        gr.Markdown(
            "# CustomOCR\nReads short text in images of the kind it was trained on. "
            "Upload an image, paste one, or click on an example."
        )
        with gr.Row():
            with gr.Column():
                image = gr.Image(label="Image", type="filepath", sources=["upload", "clipboard"], height=240)
                # gr.Image would open the file with every plugin of Pillow; only open_image is to do it.
                image.preprocess = lambda upload: upload and upload.path
                button = gr.Button("Read the text", variant="primary")
            with gr.Column():
                text = gr.Textbox(label="Text", buttons=["copy"], elem_id="text")
                confidence = gr.Textbox(label="Confidence: how sure the network is of the whole text")
        # Before the examples, which would take the endpoint's name.
        button.click(predict, image, [text, confidence], api_name="predict")
        examples = [str(path) for path in find_images(recognizer.folder) if path.parent.name == "Examples"]
        if examples:
            gr.Examples(examples, image, [text, confidence], predict, run_on_click=True, cache_examples=False)
    return page


if __name__ == "__main__":
    build(HERE).launch(ssr_mode=False, max_file_size="20mb", **LOOK)
