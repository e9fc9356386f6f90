// What is said of a prompt before it runs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { faultsOf } = await web("isa_checks.js");

const prompt = () => ({
    1: { class_type: "LIVEditorLoad", inputs: { diffusion_model: "LIVEditor-tiny (included)" } },
    2: { class_type: "LoadVideo", inputs: { file: "clip.mp4" } },
    3: { class_type: "LIVEditorAttachISA", inputs: { model: ["1", 0] } },
    4: { class_type: "CLIPTextEncode", inputs: { clip: ["1", 1], text: "Make it night" } },
    5: { class_type: "CLIPTextEncode", inputs: { clip: ["1", 1], text: "" } },
    6: {
        class_type: "LIVEditorInContextReferences",
        inputs: { positive: ["4", 0], negative: ["5", 0], video: ["2", 0], size: "custom", "size.width": 320, "size.height": 176, length: 17 },
    },
    8: { class_type: "KSampler", inputs: { model: ["3", 0], positive: ["6", 0], negative: ["6", 1], latent_image: ["6", 2], cfg: 1.5 } },
});

const changed = (change) => {
    const output = prompt();
    change(output);
    return faultsOf(output);
};

test("the template has no fault, nor have the workflows of others", () => {
    assert.deepEqual(faultsOf(prompt()), []);
    assert.deepEqual(faultsOf({}), []);
    const other = changed((output) => {
        output[1].class_type = "CheckpointLoaderSimple";
        output[8].inputs.positive = ["5", 0];
    });
    assert.deepEqual(other, []);
});

test("each fault is one sentence", () => {
    const faults = [
        [(output) => Object.assign(output[8].inputs, { positive: ["4", 0] }), /no video to edit/],
        [(output) => {
            output[9] = { class_type: "EmptyHunyuanLatentVideo", inputs: { width: 960 } };
            output[8].inputs.latent_image = ["9", 0];
        }, /latent does not come from/],
        [(output) => (output[4].inputs.text = "  "), /instruction is empty/],
        [(output) => (output[6].inputs.size = "closest bucket"), /of this size/],
        [(output) => (output[6].inputs["size.width"] = 960), /of this size/],
        [(output) => Object.assign(output[6].inputs, { "size.width": 16, "size.height": 16 }), /so small/],
        [(output) => (output[6].inputs.length = 81), /so many frames/],
        [(output) => (output[8].inputs.cfg = 6), /cfg 6 .* take 1\.5/],
    ];
    for (const [change, says] of faults) {
        const found = changed(change);
        assert.equal(found.length, 1, String(found));
        assert.match(found[0], says);
    }
});

test("windows take any number of frames, the large model other sizes, and a circle ends", () => {
    assert.deepEqual(changed((output) => {
        output[10] = { class_type: "WanContextWindowsManual", inputs: { model: ["1", 0] } };
        output[3].inputs.model = ["10", 0];
        output[6].inputs.length = 0;
    }), []);
    assert.deepEqual(changed((output) => {
        output[1].inputs.diffusion_model = "liveditor_ckpt.bin";
        Object.assign(output[6].inputs, { size: "closest bucket", length: 81 });
        output[8].inputs.cfg = 2.5;
    }), []);
    assert.deepEqual(changed((output) => (output[4].inputs.clip = ["6", 0])), []);
});

// The template's sampler taken apart, with a guider of a kind.
const guided = (class_type, inputs, change = () => {}) => changed((output) => {
    const { model, positive, negative, latent_image } = output[8].inputs;
    output[7] = { class_type, inputs: inputs(model, positive, negative) };
    output[8] = { class_type: "SamplerCustomAdvanced", inputs: { guider: ["7", 0], latent_image } };
    change(output);
});
const GUIDERS = {
    CFGGuider: (model, positive, negative) => ({ model, positive, negative, cfg: 1.5 }),
    BasicGuider: (model, positive) => ({ model, conditioning: positive }),
    DualCFGGuider: (model, positive, negative) => ({ model, cond1: positive, cond2: negative, negative }),
};

test("a guider's model, conditioning and cfg are the sampler's", () => {
    for (const [type, inputs] of Object.entries(GUIDERS)) {
        assert.deepEqual(guided(type, inputs), [], type);
        const faults = guided(type, inputs, (output) => {
            output[4].inputs.text = "";
            output[6].inputs.length = 81;
            output[8].inputs.latent_image = ["9", 0];
        });
        assert.equal(faults.length, 3, `${type}: ${faults}`);
        assert.match(guided(type, (model) => inputs(model, ["4", 0], ["5", 0]))[0], /no video to edit/);
    }
    assert.match(guided("CFGGuider", (...links) => ({ ...GUIDERS.CFGGuider(...links), cfg: 6 }))[0], /cfg 6/);
    assert.deepEqual(guided("AnotherGuider", () => ({})), []);
});

test("of a model from another loader what its In-Context References tell", () => {
    const other = (change = () => {}) => changed((output) => {
        output[1] = { class_type: "UnetLoaderGGUF", inputs: { unet_name: "liveditor-Q4.gguf" } };
        Object.assign(output[6].inputs, { size: "closest bucket", length: 81 });
        output[8].inputs.cfg = 6;
        change(output);
    });
    assert.deepEqual(other(), [], "its sizes and cfg are not known");
    assert.match(other((output) => (output[4].inputs.text = ""))[0], /instruction is empty/);
    assert.match(other((output) => (output[8].inputs.latent_image = ["9", 0]))[0], /latent does not come from/);
    assert.deepEqual(other((output) => {
        // The edit is a picture to a next model.
        output[9] = { class_type: "VAEDecode", inputs: { samples: ["8", 0] } };
        output[10] = { class_type: "TextEncodeQwenImageEdit", inputs: { prompt: "", image1: ["9", 0] } };
        output[11] = { class_type: "EmptyLatentImage", inputs: { width: 512 } };
        output[12] = { class_type: "KSampler", inputs: { model: ["1", 0], positive: ["10", 0], latent_image: ["11", 0], cfg: 6 } };
    }), []);
});

test("the latent is of the In-Context References above positive, each of a chain", () => {
    const two = (positive, of, latent) => changed((output) => {
        output[9] = structuredClone(output[6]);
        output[9].inputs.positive = [of, 0];
        Object.assign(output[8].inputs, { positive: [positive, 0], latent_image: [latent, 2] });
    });
    assert.deepEqual(two("9", "6", "9"), []);
    assert.deepEqual(two("9", "6", "6"), []);
    assert.match(two("9", "4", "6")[0], /latent does not come from/);
    assert.match(two("6", "4", "9")[0], /latent does not come from/);
    const refined = changed((output) => {
        output[9] = structuredClone(output[6]);
        output[10] = { class_type: "KSampler", inputs: { ...output[8].inputs, positive: ["9", 0], latent_image: ["8", 0] } };
    });
    assert.deepEqual(refined, [], "another sampler's latent is that one's matter");
    const chained = changed((output) => {
        output[9] = { class_type: "LIVEditorInContextReferences", inputs: { ...output[6].inputs, positive: ["6", 0] } };
        output[8].inputs.positive = ["9", 0];
        output[4].inputs.text = "";
    });
    assert.match(chained[0], /instruction is empty/);
    assert.deepEqual(changed((output) => (output[6].inputs.positive = ["6", 0])), [], "a circle ends");
});
