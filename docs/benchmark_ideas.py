"""Ideas for speed that were tried: what was expected, what came out, and what became of each.

Rows of docs/BENCHMARKS.md, written there by docs/benchmarks.py. A row is the note of one measurement and is
not changed by a later one; most can be measured again with `python -m benchmarks.ways`.
"""

from __future__ import annotations

from typing import NamedTuple


class Idea(NamedTuple):
    """One row."""

    name: str
    predicted: str
    measured: str
    verdict: str


IDEAS = (
    Idea(
        "Start: hash files and make both sessions beside the imports",
        "60 ms less on two cores",
        "three lines 429 to 385 ms, `kiloword caption` 500 to 427 ms (12 starts each, in turns); 6 MB more",
        "kept",
    ),
    Idea(
        "Start: look at a class of the manifest once, not for each of 60 records",
        "5 ms less",
        "in the figures above",
        "kept",
    ),
    Idea(
        "Start: `zipfile` only for the photo that needs a label, folder runs imported while graphs load",
        "10 ms less",
        "within the noise of 12 starts, least time 412 to 399 ms; imports alone, 50 starts in turns: "
        "median 472 ms with and 468 without",
        "kept: `zipfile`; dropped: the imports, for mistakes in options are told before anything is loaded",
    ),
    Idea(
        "Graphs saved after onnxruntime's own optimization",
        "25 ms less at a start",
        "loading both 92 to 54 ms; a whole start 5 to 8 % less; the same values",
        "open: a pass of the export",
    ),
    Idea(
        "`ORT_ENABLE_BASIC` instead of all optimizations",
        "loads sooner, runs slower",
        "loading 1.4x as fast, encoder the same, token 3 % slower",
        "dropped: the row above is better",
    ),
    Idea(
        "One product for query, key and value",
        "5 % of a token, 10 % of the encoder",
        "token 0.554 to 0.562 ms, same to the bit; encoder's product of 576 columns takes as long "
        "as three of 192",
        "dropped",
    ),
    Idea(
        "Residual and norm in one node (`SkipLayerNormalization`)",
        "5 % of the encoder",
        "304 us instead of 86 us for both nodes: onnxruntime 1.31 computes it row by row",
        "dropped; no graph of ours has more than one",
    ),
    Idea("Bias and GELU in one node (`BiasGelu`)", "faster", "420 us instead of 321 us", "dropped"),
    Idea(
        "GELU by tanh, or `QuickGelu`",
        "half of GELU's time",
        "0.90x and 0.85x as fast as the exact one, which is vectorized by now",
        "dropped",
    ),
    Idea(
        "`MultiHeadAttention` of com.microsoft instead of `Attention` of opset 23",
        "the same",
        "0.85x as fast at 197 tokens",
        "dropped",
    ),
    Idea(
        "Products of bytes without zero points for columns, all of which are 0",
        "10 % of a product",
        "1 to 3 %",
        "dropped: within the noise, and the report counts this form",
    ),
    Idea(
        "The loop inside one graph",
        "5 to 15 %",
        "greedy 1.08x, 3 beams 1.17x as fast, the same captions",
        "not the default: a graph can neither stream words, nor avoid any, nor drop finished photos. "
        "`--single-graph` writes it",
    ),
    Idea(
        "Inputs bound as OrtValues, outputs allocated once",
        "2 % of a token",
        "no gain: a token 529 us with arrays, 567 us (least) with values",
        "dropped",
    ),
    Idea(
        "Two threads that spin",
        "1.6x on one photo",
        "encoder 1.28x, token 1.09x, for 1.4 to 2 times the processor time; a product of 197 x 192 "
        "x 768 alone 1.8x. "
        "Without spinning 1.03x and 0.87x: a node takes 45 us, as long as waking a thread",
        "dropped: a shared machine pays for it; folders take a session for each processor, 1.97x",
    ),
    Idea(
        "Two threads that spin for 1 to 400 us (`spin_duration_us`, onnxruntime 1.26 and later)",
        "what spinning gains, without what it costs others",
        "a greedy photo 1.05x without, 1.10x with 1 us, 1.15x with 5, 1.17x with 100, for 1.4 to 1.7 times "
        "the processor time. Beside a program on one of the two processors 0.96x without, 0.97x with 1 us, "
        "0.87x with 5, 0.64x with 100 (64 photos each, in turns, two to four times)",
        "dropped: what an idle machine gains, a busy one loses",
    ),
    Idea(
        "Two threads that spin until a run ends",
        "as above, without idle cost",
        "encoder 1.14x, token 1.03x",
        "dropped",
    ),
    Idea(
        "No memory arena", "less memory", "token 2 % faster, encoder 0.6 % slower, memory the same", "dropped"
    ),
    Idea("Denormals as zero", "attention 10 % faster", "none", "dropped"),
    Idea(
        "Blocks of 128 or 256 instead of 64 in the decoder's weights",
        "fewer scales to multiply",
        "5 to 8 % of a product; 128 is what the bundle has",
        "kept at 128",
    ),
    Idea(
        "4-bit weights in the decoder",
        "half of a token, which reads 4.6 MB",
        "a product 1.2 to 1.3x as fast: onnxruntime's kernels for one row are bound by arithmetic "
        "at 6 to 10 GB/s, "
        "not by memory (23 GB/s)",
        "dropped: costs quality, and gains a tenth of a caption",
    ),
    Idea(
        "Greedy: a table of what followed what in other captions guesses five tokens, which the decoder "
        "checks in one call",
        "a call that reads six tokens takes 1.3 times as long as one that reads one; in captions that were "
        "written before, guesses are right often enough for 2.2 tokens a step: 1.7x for all tokens",
        "600 test photos: 4.5 instead of 10.4 steps, all tokens 7.4 to 4.5 ms (1.65x), the same words; "
        "a greedy photo 21.7 to 18.0 ms. ViT-B/16 + GPT-2, guesses as often right: 405 to 314 ms (1.29x)",
        "kept: `kiloword draft`",
    ),
    Idea(
        "Vocabulary short-list",
        "10 % of a token",
        "the head is 0.9 of 4.6 MB: at most 5 % of a greedy caption",
        "dropped: words that are not in it could not be written",
    ),
    Idea(
        "Statistics of a picture (for confidence) in bytes instead of 16 bits",
        "half of 0.8 ms",
        "1.16 to 1.14 ms in the same run",
        "dropped",
    ),
    Idea(
        "Encoder: eight pictures in pieces of two, written into one result",
        "5 %: what eight pictures have in between leaves the cache (attention 3.0 instead of 2.7 ms each)",
        "12.0 to 11.3 ms each; all at once 11.7, in pieces of 1, 3 and 4 11.3, 10.9 and 11.1 in another run. "
        "ViT-B/16 170 to 166 ms (164 to 158 in another run); the same to the bit",
        "kept on processors",
    ),
    Idea(
        "Ranges of activations measured beforehand (static), or at each product (dynamic)",
        "static 5 % faster: nothing is looked through for its largest value",
        "both 1.82x as fast as fp32, static with 99 % of its words and dynamic with 91 %; weights alone in "
        "bytes 1.05x (`--quantize --for speed` on the example photos)",
        "kept: static, by which a caption does not depend on its neighbours in a batch either",
    ),
    Idea(
        "Attention on bytes: both products as `MatMulInteger`, the softmax on floats, or on bytes by a "
        "table (`QLinearSoftmax`)",
        "30 million operations for 197 tokens are 0.23 ms as floats and 0.07 as bytes: half of the operator",
        "0.40 ms for the operator, 0.97 and 1.04 ms written out: reading and writing 116,000 scores five "
        "times, and products of bytes whose right side is no constant",
        "dropped",
    ),
    Idea(
        "160 or 192 pixels instead of 224, places interpolated, the shipped weights without training them "
        "for it",
        "encoder 0.51 and 0.73 of the time, by its tokens; some points of CIDEr",
        "encoder 0.53 and 0.74, greedy 1.40x and 1.18x as fast; CIDEr on 1,000 photos of Flickr8k dev "
        "greedy 60.7 to 54.6 and 57.6, 3 beams 61.0 to 55.9 and 57.6; with 256 pixels 0.85x as fast and "
        "59.1",
        "dropped: training at that size was not tried",
    ),
    Idea(
        "Fewer image tokens: 2 x 2 patches become one after the sixth block",
        "a third of the encoder, and a quarter of cross-attention",
        "a photo a third quicker; 3 points of CIDEr, before self-critical training gained 9 "
        "([TRAINING.md](TRAINING.md))",
        "kept: it is what ships",
    ),
    Idea(
        "Beams end when as many as there are beams have ended (`early_stopping` true), or never before the"
        " length says so",
        "true: a step less of 12",
        "1,000 photos of Flickr8k dev, 3 beams, false, true, `never`: 11.7, 11.4 and 16.8 steps; 11.9, "
        "11.7 and 17.6 ms; CIDEr 60.95, 60.97 and 61.00; true writes another caption for 7 % of them",
        "kept at false, as in transformers: true saves 1 % of a photo",
    ),
    Idea(
        "Finished photos leave the batch",
        "a fifth of the decoder's work with 8 photos, by their lengths",
        "8 photos: the decoder 1.09x as fast greedy, 1.14x with 3 beams, the same captions",
        "kept",
    ),
    Idea(
        "Batch sizes by latency",
        "weights are read once for a batch: a fifth of a token's time",
        "a photo of 1, 2, 4, 8, 16, 32: 19.9, 16.2, 14.5, 13.4, 12.7 and 12.5 ms greedy",
        "kept: 8 where nothing is said, the last step that gains 5 %; 16 waits twice as long for a twentieth",
    ),
    Idea(
        "One session with two threads, or two sessions with one",
        "the second one, for a node is as short as waking a thread",
        "one photo 1.02x, two processes 1.92x, a folder 1.97x",
        "kept: a lane with one session for each processor in folders; one session where somebody waits for"
        " one photo",
    ),
    Idea(
        "The bundle in the package: weights mapped into memory (external data)",
        "10 MB less, shared by processes",
        "one captioner 92.0 to 87.2 MB at its peak; a second one in the process adds 17 MB instead of 16, "
        "for what products read is a packed copy",
        "dropped: two more files for 5 MB; large graphs have it (below)",
    ),
    Idea(
        "Prepacked weights shared by the sessions of a process",
        "10 MB less for each further lane",
        "not in onnxruntime's Python interface (1.31); arrays shared by `add_initializer` are packed again"
        " by each session: 19 MB for a second one instead of 16",
        "dropped",
    ),
    Idea(
        "JPEGs decoded at a fraction of their size (`draft`)",
        "a sixteenth of the transforms; reading the bits stays",
        "12 megapixels to 224 x 224: 190 to 56 ms",
        "kept",
    ),
    Idea(
        "simplejpeg (MIT) instead of Pillow",
        "10 %: the same library, libjpeg-turbo, without a detour",
        "12 megapixels at a quarter: 47.5 to 45.7 ms, with the quick transforms the same; whole 75.8 to "
        "62.4 ms",
        "dropped: 2 % for one more dependency",
    ),
    Idea(
        "Lazy imports",
        "0.2 s of `kiloword --help`, which needs neither numpy nor onnxruntime",
        "99 ms; with numpy, onnxruntime, Pillow, tokenizers and rich imported first 292 ms",
        "kept",
    ),
    Idea(
        "No copy between decode and session",
        "150 kB: 10 us of 20 ms",
        "Pillow's pixels to an array 45 us, to a batch of one 9 us, to onnxruntime 3 us: 0.3 % of a photo",
        "dropped: nothing to win",
    ),
    Idea(
        "CTranslate2",
        "quick int8 products, but not for this model",
        "4.8.5 loads 43 kinds of text and speech models: no encoder of pictures, no "
        "`VisionEncoderDecoderModel`, and its GPT-2 has no cross-attention",
        "dropped: cannot be compared",
    ),
    Idea(
        "OpenVINO 2026.4 instead of onnxruntime",
        "as fast",
        "greedy 0.71x, 3 beams 0.67x as fast, 8 photos at once 1.01x, with its own int8; loaded in 1.3 s "
        "instead of 0.1, in twice the memory; 592 MB on disk with its tools (table above). The encoder alone "
        "11.1 instead of 11.5 ms, of eight photos 9.2 instead of 10.9 each; a token 1.4 instead of 0.55 ms",
        "dropped",
    ),
    Idea(
        "tqdm, which comes with tokenizers, instead of rich",
        "10 MB less on disk, 60 ms less where a table is shown",
        "rich and what it brings: 11.9 MB, of which 6.2 MB are files; a start with a table 510 ms, with "
        "text 459",
        "dropped: tqdm makes no tables, so that wrapping, wide letters and old consoles would be ours; "
        "`--no-compile` gains more",
    ),
    Idea(
        "Installed without bytecode (`pip install --no-compile`)",
        "30 MB less",
        "39.0 MB to the 4.6 MB of what a caption imports, written by the first start, which takes 0.4 s "
        "longer for it",
        "kept: `make demo`",
    ),
    Idea(
        "ViT-B/16 + GPT-2: weights in huge pages (`MADV_COLLAPSE`)",
        "10 %: a loop that only reads gains that",
        "token 17.7 to 16.7 ms, encoder the same; moving 280 MB takes 0.3 s of a processor, no memory. With "
        "the row below 4 % of a photo, 3 % with 4 beams, 5 % with 8 photos",
        "kept: for large bundles, beside the work, from the eighth picture on",
    ),
    Idea(
        "ViT-B/16 + GPT-2: the query scaled before cross-attention, not in it",
        "1 ms of a token, 9 ms of 8 photos' tokens: keys are not copied for the product",
        "17.3 to 16.7 ms, 8 photos 40.6 to 36.5 ms, 4 beams the same; the same to the bit",
        "kept",
    ),
    Idea(
        "ViT-B/16 + GPT-2: the picture's keys and values as fp16, or as int8, made floats before use",
        "half or a quarter of 15 MB a token: 0.6 to 1 ms of it, 5 to 8 ms of 8 photos' tokens",
        "17.3 to 19.6 or 19.1 ms, 8 photos 36.8 to 54.8 or 51.3 ms: converting takes more than reading",
        "dropped",
    ),
    Idea(
        "ViT-B/16 + GPT-2: the picture's keys and values as int8, multiplied as bytes (`MatMulInteger`)",
        "as above, without converting",
        "cross-attention of the 12 blocks alone: 2.9 to 1.9 ms for a token, 4.2 to 2.6 with 4 beams, 14.7 to "
        "6.6 with 8 photos; 13 nodes instead of one. In whole graphs a token takes 14.8 instead of 15.5 ms, "
        "19.0 instead of 19.7 with 4 beams, 27.4 instead of 34.8 with 8, the encoder 153 not 156",
        "dropped: 3 % of a photo (7 % of each of eight), and keys would lie transposed, where explanations, "
        "confidence and the page in the browser read them",
    ),
    Idea(
        "ViT-B/16 + GPT-2: 8-bit weights in blocks for the decoder",
        "the same",
        "0.89x as fast for a token, 0.75x with 4 beams, 0.67x with 8 photos",
        "dropped: `static`",
    ),
    Idea(
        "ViT-B/16 + GPT-2: products without packed weights",
        "loads sooner",
        "loads in 0.6 of the time; a token 17.3 to 49.9 ms",
        "dropped",
    ),
    Idea(
        "ViT-B/16 + GPT-2: residual and norm not joined (`SkipLayerNormFusion` off)",
        "1 ms of the encoder",
        "0.5 %",
        "dropped",
    ),
    Idea(
        "ViT-B/16 + GPT-2: best tokens by blocks of the vocabulary, `exp` in blocks that stay in the cache",
        "1 ms of a step with 4 beams",
        "best tokens 0.65 to 0.41 ms, `exp` no gain: 0.8 % of a caption",
        "dropped",
    ),
    Idea(
        "ViT-B/16 + GPT-2: weights in files of their own, which onnxruntime maps into memory",
        "0.2 s less: 242 MB are neither parsed nor copied a second time",
        "decoder 479 to 287 ms, encoder 293 to 156 ms; with the hashing beside it, from start to first "
        "encoding 1083 to 949 ms (8 starts each, in turns), peak 386 to 355 MB. Of 11 MB, nothing",
        "kept: for graphs of more than 64 MB",
    ),
    Idea(
        "ViT-B/16 + GPT-2: loading without the arena for weights, or with `ORT_ENABLE_EXTENDED`",
        "50 ms less",
        "encoder 315 and 306 instead of 319 ms, decoder 484 and 490 instead of 486, the same memory",
        "dropped",
    ),
)
