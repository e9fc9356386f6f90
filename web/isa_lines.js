// The panel's text about settings and steps.
import { t } from "./isa_words.js";

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
export const listed = (values, names) => names.map((name) => `${name} ${values[name]}`).join(", ");

// The names whose values differ between `theirs` and `mine`.
export function differing(mine, theirs) {
    return Object.keys(mine).filter((name) => name in theirs && mine[name] !== theirs[name]);
}

// Whether what attends exactly depends on the video.
export const byThreshold = (values) => "sharpness_threshold" in values || values.error_threshold > 0;

// The bar and its words, {share, text, title}; without a text if the server has to estimate the share.
// tokens: [target, context ...]; about: estimated; least, from, to, dense: the schedule; measured: the last step in which
// ISA acted.
export function costOf({ values, tokens, about, measured, least, from, to, dense }) {
    const count = tokens.reduce((sum, part) => sum + part);
    const total = about ? t("about {total}", { total: count.toLocaleString("en") }) : count.toLocaleString("en");
    if (count < least) {
        return {
            share: 1,
            text: t("Full attention: {total} tokens, fewer than min_tokens {least}", { total, least }),
            title: [t("Lower min_tokens on Attach ISA, or take a longer or larger video."),
                ...(values.enabled && values.context_refresh ? [t("The context is reused all the same.")] : [])].join("\n"),
        };
    }
    const limits = [];
    if (values.enabled && (from > 0 || to < 1)) limits.push(t("Between start_percent {from} and end_percent {to} alone; full attention before and after.", { from, to }));
    if (values.enabled && dense) limits.push(t("Not in dense_blocks {blocks}, which attend in full.", { blocks: dense }));
    const title = limits.join("\n");
    if (!values.enabled || !byThreshold(values)) return { total, title };
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
        pace && `${t("context reused")} ${pace.toPrecision(3)} s`,
        gpu && t("{size} GB kept on the GPU", size(gpu)),
        main && t("{size} GB kept in main memory", size(main)),
    ].filter(Boolean).join(", ");
}

// The lines about the last step; run: the current run, or null. Paces are of model calls that compute the context.
export function stepLines(row, run) {
    const lines = [];
    const full = Object.keys(row.full)[0];
    const shares = () => ({ share: percent(row.density), kept: percent(row.kept), cost: percent(row.flop_ratio) });
    const context = { reused: `, ${t("context reused")}`, refreshed: `, ${t("context computed anew")}` }[row.context] ?? "";
    const kind = row.density !== undefined ? t("density {share}, kept context {kept}, arithmetic {cost}", shares())
        : row.tokens.length ? t("full attention ({reason})", { reason: full ?? "-" }) : t("no attention (a cache skipped it)");
    lines.push(run ? `${t("step {step} of {steps}", { step: row.step + 1, steps: run.steps })}: ${kind}${context}` : `${t("last step")}: ${kind}${context}`);
    const pace = [["ISA", row.pace.isa], [t("full"), row.pace.full]].filter(([, seconds]) => seconds);
    const paces = pace.map(([name, seconds]) => `${name} ${seconds.toPrecision(3)} s`).join(", ");
    if (paces) lines.push(`${paces} ${t("per model call")}${row.backend ? `, ${row.backend[0]}` : ""}`);
    const kept = row.context && contextLine(row);
    if (kept) lines.push(kept);
    if (full && row.density !== undefined) lines.push(t("partly full attention ({reason})", { reason: full }));
    return lines;
}
