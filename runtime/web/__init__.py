"""`kiloword web`: a page that captions in the browser alone, from a bundle and onnxruntime-web."""
