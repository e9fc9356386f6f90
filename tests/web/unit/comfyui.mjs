// Lets modules of web/ be imported without ComfyUI: import this first, and them by `await import(...)`.
import { register } from "node:module";

register(new URL("./comfyui_hooks.mjs", import.meta.url));

export const web = (name) => import(new URL(`../../../web/${name}`, import.meta.url));
