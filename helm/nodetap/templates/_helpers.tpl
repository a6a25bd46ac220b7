{{- define "nodetap.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "nodetap.fullname" -}}
{{- $name := include "nodetap.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Arguments: [root, component]. What never changes, so that it may select. */}}
{{- define "nodetap.selector" -}}
app.kubernetes.io/name: {{ include "nodetap.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Of pods: nothing that changes with the chart's version alone, as that would start all of them again. */}}
{{- define "nodetap.podLabels" -}}
{{ include "nodetap.selector" . }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "nodetap.labels" -}}
{{- $root := index . 0 -}}
{{ include "nodetap.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: [root, image]. */}}
{{- define "nodetap.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 0).Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Arguments: [root, "agent" or "hub"]. */}}
{{- define "nodetap.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $account := index $root.Values.serviceAccounts (index . 1) -}}
{{- $own := printf "%s-%s" (include "nodetap.fullname" $root) (index . 1) -}}
{{- if $account.create -}}
{{- default $own $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* Arguments: [root, "hub", "agents", "reader" or "people"]. Who shows which token: the Secret and its key, as YAML. */}}
{{- define "nodetap.token" -}}
{{- $root := index . 0 -}}
{{- $who := index . 1 -}}
{{- $token := $root.Values.token -}}
{{- $theirs := index $token $who | default dict -}}
{{- $full := include "nodetap.fullname" $root -}}
{{- if $theirs.existingSecret }}
name: {{ $theirs.existingSecret }}
key: {{ $theirs.key }}
{{- else if $token.existingSecret }}
name: {{ $token.existingSecret }}
key: {{ $token.key }}
{{- else if eq $who "agents" }}
name: {{ $full }}-agent-token
key: token
{{- else }}
name: {{ $full }}-token
key: {{ index (dict "hub" "roles" "reader" "read" "people" "token") $who }}
{{- end }}
{{- end -}}

{{/* The --store of the hub. The password stays in its file. */}}
{{- define "nodetap.store" -}}
{{- $clickhouse := .Values.hub.clickhouse -}}
{{- if not $clickhouse.url -}}
chdb:///data/store
{{- else if $clickhouse.passwordSecret -}}
{{- printf "%s%spassword_file=/etc/nodetap/clickhouse/password" $clickhouse.url (ternary "&" "?" (contains "?" $clickhouse.url)) -}}
{{- else -}}
{{- $clickhouse.url -}}
{{- end -}}
{{- end -}}

{{/* Of the whole cluster, hence with the namespace in its name. */}}
{{- define "nodetap.priorityClass" -}}
{{- default (printf "%s-%s-agent" .Release.Namespace (include "nodetap.fullname" .)) .Values.agent.priorityClass.name -}}
{{- end -}}

{{- define "nodetap.tlsSecret" -}}
{{- if eq .Values.tls.mode "existing" -}}
{{- .Values.tls.existingSecret -}}
{{- else -}}
{{- printf "%s-hub-tls" (include "nodetap.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* Not empty where whoever connects is given a ca.crt. */}}
{{- define "nodetap.ca" -}}
{{- if eq .Values.tls.mode "own" -}}
own
{{- else if and (ne .Values.tls.mode "off") (not .Values.tls.systemCAs) -}}
secret
{{- end -}}
{{- end -}}

{{/* The volume with ca.crt. Of an own CA there is a ConfigMap, so that no key is near a node that needs none. */}}
{{- define "nodetap.caVolume" -}}
name: ca
{{- if eq (include "nodetap.ca" .) "own" }}
configMap:
  name: {{ include "nodetap.fullname" . }}-ca
{{- else }}
secret:
  secretName: {{ include "nodetap.tlsSecret" . }}
  items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}

{{/* Names that the hub is called by, one a line. */}}
{{- define "nodetap.hubNames" -}}
{{- $root := . -}}
{{- $full := include "nodetap.fullname" . -}}
{{- range $service := list (printf "%s-hub" $full) (printf "%s-hub-agents" $full) }}
{{ $service }}
{{ $service }}.{{ $root.Release.Namespace }}
{{ $service }}.{{ $root.Release.Namespace }}.svc
{{ $service }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
{{- end }}
localhost
{{- range .Values.tls.names }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "nodetap.agentHubs" -}}
{{- if .Values.agent.hubs -}}
{{- join "," .Values.agent.hubs -}}
{{- else -}}
{{- $scheme := ternary "ws" "wss" (eq .Values.tls.mode "off") -}}
{{- printf "%s://%s-hub-agents.%s.svc:8470" $scheme (include "nodetap.fullname" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* The alerts that are wanted, as a rule group file. */}}
{{- define "nodetap.alerts" -}}
{{- $disabled := .Values.prometheusRule.disabled -}}
{{- $groups := list -}}
{{- range (fromYaml (.Files.Get "files/alerts.yaml")).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- if not (has .alert $disabled) -}}
{{- $rules = append $rules . -}}
{{- end -}}
{{- end -}}
{{- if $rules -}}
{{- $groups = append $groups (dict "name" .name "rules" $rules) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "groups" $groups) -}}
{{- end -}}
