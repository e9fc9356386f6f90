// The panel's text about settings and steps.
import { said } from "./isa_server_words.js";
import { t } from "./isa_words.js";

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
export const listed = (values, names) => names.map((name) => `${name} ${values[name]}`).join(", ");

// The names whose values differ between `theirs` and `mine`.
export function differing(mine, theirs) {
    return Object.keys(mine).filter((name) => name in theirs && mine[name] !== theirs[name]);
}

// Whether what attends exactly depends on the video.
export const byThreshold = (values) => "sharpness_threshold" in values || values.error_threshold > 0;

// The bar and its words, {share, text, title, idle: whether ISA does not act}; without a text if the server has to estimate the share.
// tokens: [target, context ...]; exact: those of text and sound that stay exact; about: estimated; least, from, to, dense, bypassed: the schedule; measured: the last step in which
// ISA acted.
export function costOf({ values, tokens, exact = 0, about, measured, least, from, to, dense, bypassed }) {
    const count = tokens.reduce((sum, part) => sum + part) + exact;
    const total = about ? t("about {total}", { total: count.toLocaleString("en") }) : count.toLocaleString("en");
    if (bypassed) return { share: 1, idle: true, bypassed, text: t("Full attention: this node is bypassed or muted"), title: "" };
    if (!values.enabled) return { share: 1, idle: true, text: t("Full attention: ISA is switched off"), title: "" };
    if (count < least) {
        return {
            share: 1,
            idle: true,
            text: t("Full attention: {total} tokens, fewer than min_tokens {least}", { total, least }),
            title: t("Lower min_tokens on Attach ISA, or take a longer or larger video."),
        };
    }
    const limits = [];
    if (from > 0 || to < 1) limits.push(t("Between start_percent {from} and end_percent {to} alone; full attention before and after.", { from, to }));
    if (dense) limits.push(t("Not in dense_blocks {blocks}, which attend in full.", { blocks: dense }));
    const title = limits.join("\n");
    if (!byThreshold(values)) return { total, title };
    // What is above a threshold is unknown before a run.
    const share = measured && !differing(values, measured.values).length ? measured.flop_ratio : null;
    const text = share === null ? t("By threshold: depends on the video, {total} tokens", { total })
        : t("By threshold: {share} of full attention's arithmetic measured, {total} tokens", { share: percent(share), total });
    return { share: share ?? 0, text, title };
}

// The same with the server's estimate, {flop_ratio, reused} or {error}; reused: of a step that reuses the context, if any does.
export function estimatedCost({ flop_ratio: share, reused, error }, { total, title }) {
    if (error) return { share: 0, text: error, title };
    const shares = { share: percent(share), total };
    if (reused === undefined) return { share, text: t("{share} of full attention's arithmetic, {total} tokens", shares), title };
    const text = t("{share} of full attention's arithmetic ({reused} in reuses), {total} tokens", { ...shares, reused: percent(reused) });
    return { share, text, title };
}

// Seconds of a model call that reuses the context, and what is kept.
function contextLine({ reused_pace: pace, context_held: [gpu, main] }) {
    const size = (bytes) => ({ size: Number((bytes / 1e9).toPrecision(2)) });
    return [
        pace && t("{pace} where the context is reused", { pace: duration(pace) }),
        gpu && t("{size} GB kept on the GPU", size(gpu)),
        main && t("{size} GB kept in main memory", size(main)),
    ].filter(Boolean).join(", ");
}

// Seconds as people say them.
export function duration(seconds) {
    if (seconds < 9.95) return `${seconds.toPrecision(2)} s`;
    const whole = Math.round(seconds);
    return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

// How fast a run is, of its own evaluations up to `row`: {pace, left, total} in seconds, a step's, to come, and so far. The first
// evaluation compiles and loads, so the others speak for the pace.
export function timing({ step, so_far: [first, total] }, steps) {
    const pace = step ? (total - first) / step : total;
    return { pace, left: pace * (steps - 1 - step), total };
}

// The lines about the run, of which `row` is the last evaluation; run: the "started" event, or null when it is over. reported: whether
// the server's sentences about the whole run stand below, so that the last step's are not needed.
export function stepLines(row, run, reported) {
    const times = timing(row, run?.steps ?? 0);
    const reason = Object.keys(row.full)[0];
    const full = reason && said(reason);
    const shares = () => ({ kept: percent(row.kept), cost: percent(row.flop_ratio), backend: row.backend?.[0] ?? "" });
    const context = { reused: `, ${t("context reused")}`, refreshed: `, ${t("context computed anew")}` }[row.context] ?? "";
    const kind = row.density !== undefined ? t("ISA on {backend}: arithmetic {cost}, kept context {kept}", shares())
        : row.tokens.length ? t("full attention ({reason})", { reason: full ?? "-" }) : t("no attention (a cache skipped it)");
    const lines = [];
    if (run) {
        const begun = t("step {step} of {steps}", { step: row.step + 1, steps: run.steps });
        lines.push(`${begun}: ${t("{pace} a step, about {left} left", { pace: duration(times.pace), left: duration(times.left) })}`, `${kind}${context}`);
    } else {
        lines.push(t("{pace} a step, {total} in all", { pace: duration(times.pace), total: duration(times.total) }), ...(reported ? [] : [`${t("last step")}: ${kind}${context}`]));
    }
    const { isa, full: whole } = row.pace;
    if (isa && whole) {
        const paces = { isa: isa.toPrecision(3), full: whole.toPrecision(3), times: (whole / isa).toFixed(2) };
        lines.push(t("this run's ISA {isa} s, full {full} s a model call: {times}× as fast", paces));
    }
    const kept = row.context && contextLine(row);
    if (kept) lines.push(kept);
    if (full && row.density !== undefined) lines.push(t("partly full attention ({reason})", { reason: full }));
    return lines;
}
